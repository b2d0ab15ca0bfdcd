from k3m_jax.data.build import shuffler
from k3m_jax.data.build.shuffler import Shuffler


def shuffled(folder, keys, salt="train"):
    shuffler = Shuffler(folder, salt)
    for key in keys:
        shuffler.add(key, b"value of " + key)
    assert shuffler.items == len(keys)
    assert shuffler.bytes == sum(len(key) + 9 for key in keys)
    return list(shuffler)


def test_the_order_depends_on_keys_alone_in_memory_and_on_disk(tmp_path, monkeypatch):
    keys = [str(i).encode() for i in range(5000)]
    inside = shuffled(tmp_path / "unused", keys)
    assert not (tmp_path / "unused").exists()
    assert sorted(inside) == sorted(b"value of " + key for key in keys)
    assert inside != sorted(inside)
    monkeypatch.setattr(shuffler, "HELD", 20_000)
    monkeypatch.setattr(shuffler, "BUCKETS", 16)
    assert shuffled(tmp_path / "used", keys[::-1]) == inside
    assert list((tmp_path / "used").iterdir()) == []  # each file goes when it is read
    assert shuffled(tmp_path / "other", keys, salt="valid") != inside
