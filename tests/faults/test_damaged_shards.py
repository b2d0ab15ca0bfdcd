"""A data set, damaged file by file: what was built is read, or one line says what is wrong."""

import json
import pathlib
import shutil

import pytest
from damage import KINDS, files, inflict

from k3m_jax.data.build.local import build
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.data.store.shards import open_shards
from k3m_jax.settings import Data, UserError
from tests.troubled import arguments, everything, write_catalog


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """In a folder whose name means something to `glob`."""
    folder = tmp_path_factory.mktemp("data") / "my [1] shop*"
    write_catalog(folder / "dump")
    built = build(arguments(folder / "dump", folder / "data", vocabulary_size=300))
    return pathlib.Path(str(built.folder))


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


def contents(folder):
    """All that is read of a data set, as text."""
    inputs = open_inputs(Data(sources=(str(folder),)))
    (shards,) = inputs.shard_sets
    items = {k: (split, repr(r.contents)) for k, (split, r) in everything(shards).items()}
    return items, shards.values, shards.pairs, shards.codebook.centres.tolist(), shards.info


def test_a_folder_with_brackets_is_read_and_described(whole):
    items, *_, info = contents(whole)
    assert len(items) == sum(info.products.values())
    assert set(info.files) >= {"values.json", "codebook.npz", "tokenizer/tokenizer.json"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_file(whole, tmp_path, kind):
    expected = contents(whole)
    for i, name in enumerate(files(whole)):
        folder = shutil.copytree(whole, tmp_path / str(i))
        inflict(folder / name, kind, seed=i)
        if (folder / name).exists() and (folder / name).read_bytes() == (whole / name).read_bytes():
            continue
        message = ""
        try:
            found = contents(folder)
        except UserError as error:
            message = str(error)
        assert "\n" not in message
        assert message or found == expected, (name, kind)


def test_another_split_in_the_place_of_train(copy):
    train, valid = (next(copy.glob(f"*-{split}.array_record*")) for split in ("train", "valid"))
    train.write_bytes(valid.read_bytes())
    with pytest.raises(UserError, match=r"train\.array_record.* built"):
        open_shards(copy)


def test_edited_values(copy):
    values = json.loads((copy / "values.json").read_text())
    values["color"].pop("c0")
    (copy / "values.json").write_text(json.dumps(values, ensure_ascii=False))
    with pytest.raises(UserError, match=r"values\.json has .* bytes, not the"):
        open_shards(copy)


class Broken:
    """A source of which some items can't be read."""

    def __init__(self, source, broken):
        self.source, self.broken = source, broken

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index in self.broken:
            raise RuntimeError("CRC mismatch\nin the second line")
        return self.source[index]


def test_unreadable_records_are_named_and_left_out(whole, caplog):
    source = open_shards(whole, unreadable=2).source("train")
    before = [record.id for record in source]
    source._source = Broken(source._source, {1, 4})
    for _ in range(2):  # counted once
        after = [record.id for record in source]
    assert after == [*before[:1], "unreadable-1", *before[2:4], "unreadable-4", *before[5:]]
    assert source[1].contents["title"] == ""
    said = "can't be read (RuntimeError: CRC mismatch)"
    assert sum(said in each for each in caplog.messages) == 2
    source._source.broken = {1, 4, 5}
    with pytest.raises(UserError, match=r"item 5 .* more than data\.unreadable 2"):
        source[5]


def test_a_disk_that_fails_leaves_nothing_out(whole, monkeypatch):
    source = open_shards(whole).source("train")

    def refuse(index):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(source, "_read", refuse)
    with pytest.raises(OSError, match="Input/output"):
        source[0]
