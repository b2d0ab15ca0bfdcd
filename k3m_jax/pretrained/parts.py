"""Weights that are cut into several files: whether all of them are there."""

import json
import re
from collections.abc import Sequence

from etils import epath

from k3m_jax.settings import UserError


def check_parts(folder: epath.Path, names: Sequence[str]) -> None:
    """Raises UserError where weights are in parts, the files `names`, and one is not there.

    An index in the folder says which there are, without one their numbers do.
    """
    given, wanted = set(names), set()
    for path in folder.glob("*.index.json"):
        try:
            wanted |= set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} can't be read ({error!r}): fetch it again") from error
    if not wanted & given:  # the index of other weights
        wanted = set()
        for match in filter(None, (re.fullmatch(r"(.+-)(\d+)(-of-(\d+)\..+)", x) for x in names)):
            begin, number, end, count = match.groups()
            places = range(1, min(int(count), 100_000) + 1)
            wanted |= {f"{begin}{place:0{len(number)}}{end}" for place in places}
    if missing := sorted(wanted - given):
        found = f"{folder} lacks {missing[0]}, one of {len(missing)} missing parts of its weights"
        raise UserError(f"{found}: fetch it again")
