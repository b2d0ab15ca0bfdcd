"""Folders whose names have [ ], * or ? in them.

epath's `glob` takes the folder itself for a part of the pattern. So Orbax writes checkpoints into
such a folder that nobody can read, and TFDS finds no shards. Importing this module mends epath for
local paths.
"""

import functools
import glob
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath


def _literal(original: Callable[[Any, str], Iterator[Any]]) -> Callable[[Any, str], Iterator[Any]]:
    @functools.wraps(original)
    def of_folder(self: Any, pattern: str) -> Iterator[Any]:
        folder = str(self)
        if "://" in folder or glob.escape(folder) == folder:
            return original(self, pattern)
        return original(type(self)(glob.escape(folder)), pattern)

    of_folder.is_literal = True
    return of_folder


_LOCAL = type(epath.Path("."))
if not hasattr(_LOCAL.glob, "is_literal"):
    _LOCAL.glob = _literal(_LOCAL.glob)
