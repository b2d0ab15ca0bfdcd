"""A stand-in for a bucket: gs:// paths that go the whole way through epath and fsspec."""

from fsspec.implementations.memory import MemoryFileSystem


class Buckets(MemoryFileSystem):
    """A store in memory under the names that epath asks fsspec for."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]
    cachable = False

    def __init__(self, finalize_on_close=True, **options):
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path):
        for name in cls.protocol:
            path = path.removeprefix(f"{name}://")
        return MemoryFileSystem._strip_protocol(path)

    def glob(self, path, **options):
        # Google's and Amazon's name a file without a slash before the bucket.
        return [found.lstrip("/") for found in super().glob(path, **options)]

    def _open(self, path, mode="rb", **options):
        if "a" in mode or "+" in mode:
            raise NotImplementedError("objects can't be appended to")
        return super()._open(path, mode, **options)
