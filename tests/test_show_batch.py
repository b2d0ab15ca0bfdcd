"""What show_batch prints and draws."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.input import inspection
from launch.cli import EXIT_USER_ERROR, run_command
from tests.products import (
    NO_PICTURE,
    detected,
    having,
    inputs,
    jpeg,
    memory_shards,
    record,
    settings_for,
)
from tests.tiny import TINY

RECORDS = [
    record(1, [("colour", "red"), ("brand", "norda")], title="red thing of norda"),
    record(2, [("colour", "blue"), ("brand", "velti")], title=""),
    record(3, [], title="a thing", picture=NO_PICTURE),
    record(4, [("colour", "green")], title="green thing"),
]


def shown(records, **groups):
    """(examples, batch, texts) of a group of four, at the first step."""
    image = groups.get("image", TINY.image)
    info = {"front_end": image.front_end, "feature_dim": image.input_dim, "classes": 7}
    given = inputs(memory_shards(records, **info))
    settings = settings_for(given, **groups)
    return inspection.first_rows(settings, given, step=0, rows=4)


def test_rows_are_described_as_the_model_reads_them():
    examples, batch, texts = shown(RECORDS)
    found = {}
    for row, (example, text) in enumerate(zip(examples, texts, strict=True)):
        lines = dict(line.split(maxsplit=1) for line in text.splitlines()[1:])
        found[example.view.record.id] = row, example.view.record, lines
    row, item, lines = found["id1"]
    assert list(lines) == ["title", "image", "knowledge", "mlm", "mom", "lpm"]
    ((name, value),) = (pair for pair in item.triples if lines["lpm"].startswith(pair[0]))
    (other,) = set(item.triples) - {(name, value)}
    triple, _, others = lines["lpm"].partition(" against ")
    assert triple == f"{name}‹{value}›"
    assert lines["knowledge"] == f"{other[0]}‹{other[1]}›"
    values, _, items = others.partition("; ")
    assert value not in values
    assert f"({item.product})" not in items
    assert lines["image"] == "4 regions"
    assert lines["mom"].startswith("1 targets, ")
    position = batch["mlm_positions"][row, 0]
    word = ["red", "thing", "of", "norda"][position - 1]
    assert lines["mlm"].startswith("[")
    assert lines["mlm"].endswith(f"{word}]")

    assert found["id2"][2]["title"] == "absent"
    assert found["id2"][2]["mlm"] == "nothing"
    lines = found["id3"][2]
    assert (lines["image"], lines["mom"]) == ("absent", "nothing")
    assert (lines["knowledge"], lines["lpm"]) == ("absent", "nothing")
    assert found["id4"][2]["knowledge"] == "absent"  # its only triple is queried


@pytest.mark.parametrize("front_end", ["patches", "regions"])
def test_the_figure_is_written_for_both_front_ends(front_end, tmp_path):
    records, groups = RECORDS, {}
    if front_end == "regions":
        records = [having(r, image=detected(i, boxes=i)) for i, r in enumerate(RECORDS)]
        image = dataclasses.replace(TINY.image, front_end="regions", feature_dim=6)
        groups = {"image": image}
    examples, batch, texts = shown(records, **groups)
    path = tmp_path / "batch.png"
    inspection.draw(batch, examples, texts, path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1200
    red = np.array([0xE4, 0x57, 0x2E])
    assert (pixels == red).all(-1).any()  # a target


@pytest.mark.slow  # builds shards
def test_the_command_shows_a_batch_of_built_shards(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    with (tmp_path / "in/products.jsonl").open("w") as file:
        for i in range(20):
            triples = [["colour", "red"], ["for", "tea"]]
            item = {"id": f"p{i}", "title": "red mug", "triples": triples, "split": "train"}
            item |= {"category": "mugs", "images": [f"{i}.jpg"]}
            file.write(json.dumps(item) + "\n")
            (tmp_path / f"in/{i}.jpg").write_bytes(jpeg(i, 64))
    build(BuildArguments(format="jsonl", input=str(tmp_path / "in"), output=str(tmp_path / "out")))
    (tmp_path / "config.py").write_text(
        "from k3m_jax.settings import default_config as get_config  # noqa"
    )

    flags = [f"--config={tmp_path / 'config.py'}", f"--output={tmp_path / 'batch.png'}", "--rows=2"]
    sources = f"--config.data.sources={tmp_path / 'out'}"
    assert run_command("launch.show_batch", [*flags, sources]) == 0
    output = capsys.readouterr().out
    assert "row 1: p" in output
    assert "row 2: p" not in output
    assert (tmp_path / "batch.png").exists()

    assert run_command("launch.show_batch", flags) == EXIT_USER_ERROR
    assert "data.sources" in capsys.readouterr().err
