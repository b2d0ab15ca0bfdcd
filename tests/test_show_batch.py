import dataclasses
import json
import os
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
from PIL import Image

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.input import inspection
from k3m_jax.data.input.collate import collate
from k3m_jax.data.input.pipeline import train_items
from tests.conftest import ROOT
from tests.products import detected, inputs, jpeg, memory_shards, record, settings_for
from tests.tiny import TINY

RECORDS = [
    record(1, [("colour", "red"), ("brand", "norda")], title="red thing of norda"),
    record(2, [("colour", "blue"), ("brand", "velti")], title=""),
    record(3, [], title="a thing", picture=b"", class_ids=np.zeros(0, np.int32)),
    record(4, [("colour", "green")], title="green thing"),
]


def shown(records, **groups):
    """(settings, examples, batch, texts by item id) of a group of four, at the first step."""
    image = groups.get("image", TINY.image)
    info = {"front_end": image.front_end, "feature_dim": image.input_dim, "classes": 7}
    given = inputs(memory_shards(records, **info))
    settings = settings_for(given, **groups)
    items = train_items(settings, *given)
    examples = [items[i] for i in range(4)]
    batch = collate(examples, settings, count(), 0)
    texts = [
        inspection.describe(batch, row, examples, given.tokenizer, settings) for row in range(4)
    ]
    return settings, examples, batch, texts


def test_rows_are_told_as_the_model_gets_them():
    _, examples, _, texts = shown(RECORDS)
    by_id = {e.record["id"]: (e, t.splitlines()) for e, t in zip(examples, texts, strict=True)}
    example, lines = by_id["id1"]
    asked = example.record["properties"].index(lines[4].split()[1].split("‹")[0])
    other = 1 - asked
    names, values = example.record["properties"], example.record["values"]
    assert lines[4] == f"  asked      {names[asked]}‹{values[asked]}›"
    assert lines[3] == f"  knowledge  {names[other]}‹{values[other]}›  (1 of 2 triples)"
    assert "[" in lines[1]
    assert "4 regions, 1 asked for" in lines[2]
    assert all(value not in lines[5].split("; ")[0] for value in values)
    assert by_id["id2"][1][1] == "  title      absent"
    lines = by_id["id3"][1]
    assert lines[2] == "  picture    absent"
    assert lines[3] == "  knowledge  absent  (0 of 0 triples)"
    assert lines[4] == "  asked      nothing: the item has no triple"
    assert by_id["id4"][1][3] == "  knowledge  absent  (0 of 1 triples)"


def test_a_token_asked_for_is_shown_with_what_stood_there():
    _, examples, batch, texts = shown(RECORDS)
    row = next(i for i, e in enumerate(examples) if e.record["id"] == "id1")
    position = batch["mlm_positions"][row, 0]
    word = ["red", "thing", "of", "norda"][position - 1]
    marked = texts[row].splitlines()[1].split()[position]
    assert marked.startswith("[")
    assert marked.endswith(f"{word}]")


@pytest.mark.parametrize("front_end", ["patches", "regions"])
def test_the_figure_is_written_for_both_front_ends(front_end, tmp_path):
    records, groups = RECORDS, {}
    if front_end == "regions":
        records = [r | detected(i, boxes=i) for i, r in enumerate(RECORDS)]
        records[1] |= {"picture": jpeg(1, 64)}
        image = dataclasses.replace(TINY.image, front_end="regions", feature_dim=6)
        groups = {"image": image}
    settings, examples, batch, texts = shown(records, **groups)
    path = tmp_path / "batch.png"
    inspection.draw(batch, 4, examples, texts, settings, path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1200
    red = np.array([0xE4, 0x57, 0x2E])
    assert (pixels == red).all(-1).any()  # a region that is asked for


@pytest.mark.slow  # builds shards and starts Python anew
def test_the_command_shows_a_batch_of_built_shards(tmp_path):
    (tmp_path / "in").mkdir()
    with (tmp_path / "in/products.jsonl").open("w") as file:
        for i in range(20):
            item = {
                "id": f"p{i}",
                "title": "red mug",
                "triples": [["colour", "red"], ["for", "tea"]],
            }
            item |= {
                "product": f"p{i}",
                "category": "mugs",
                "images": [f"{i}.jpg"],
                "split": "train",
            }
            file.write(json.dumps(item) + "\n")
            (tmp_path / f"in/{i}.jpg").write_bytes(jpeg(i, 64))
    build(BuildArguments(format="jsonl", input=str(tmp_path / "in"), output=str(tmp_path / "out")))
    (tmp_path / "config.py").write_text(
        "from k3m_jax.settings import default_config as get_config  # noqa"
    )

    def run(*extra):
        return subprocess.run(
            [
                *(sys.executable, "-m", "launch.show_batch"),
                f"--config={tmp_path / 'config.py'}",
                f"--output={tmp_path / 'batch.png'}",
                *extra,
            ],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )

    done = run(f"--config.data.sources={tmp_path / 'out'}", "--rows=2")
    assert done.returncode == 0, done.stderr
    assert "row 1: p" in done.stdout
    assert "row 2: p" not in done.stdout
    assert (tmp_path / "batch.png").exists()

    wrong = run("--rows=2")
    assert wrong.returncode == 2
    assert "data.sources is empty" in wrong.stderr
    assert "Traceback" not in wrong.stderr
