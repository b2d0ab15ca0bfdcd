"""From a run to a folder, and from the folder to the vectors of a dump, as a user does it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from exported import tiny_params, write_run

from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.evaluation import task_report
from k3m_jax.evaluation.report import Report, Row
from k3m_jax.pretrained.weights_file import flat, read_weights
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.run_export import export_run
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.checkpoints import load_meta
from launch.cli import EXIT_USER_ERROR
from tests.products import tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that stands at step 7, evaluated there and at another step; its shards beside it."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder / "run", folder)
    row = Row("link_mrr", 0.625, (0.5, 0.75), 0.25, 40)
    for split, step in (("valid", 7), ("test", 3)):
        report = Report((row, Row("mlm_loss")), 2, step, split)
        (folder / "run" / f"evaluation-{split}.json").write_text(json.dumps(report.json()))
        accuracy = task_report.Row(
            "accuracy",
            task_report.Score(0.875, (0.75, 0.9)),
            {"majority": task_report.Score(0.125, None)},
        )
        probe = task_report.TaskReport(
            "probe", "classification", split, "", step, (accuracy,), 40, 20, 10, {}
        )
        probe.write(folder / "run")
    return folder / "run"


def export(run, output, **given):
    export_run(run, output, **{"which": "best", "platforms": ()} | given)
    return output


def test_the_best_checkpoint_leaves_bit_by_bit_and_its_card_tells_of_it(run, tmp_path):
    folder = export(run, tmp_path / "model")
    expected = flat(tiny_params(from_pretrained(folder).network))
    weights, meta = read_weights(folder / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(weights[name].tobytes() == x.tobytes() for name, x in expected.items())
    assert meta["step"] == 7
    card = (folder / "README.md").read_text()
    info = open_inputs_of(run).shard_sets[0].info
    for said in (
        f"| shop | {info.products['train']} train, ",
        "Pretrained for 7 of 20 steps of 16 products",
        "| link MRR | 62.5 % | 50.0 % to 75.0 % | 25.0 % | 40 links |",
        "### Step 7 on the split valid",
        "### Classification: a head on embeddings of step 7, valid",
        "| accuracy | 87.5 % (75.0 to 90.0) | 12.5 % |",
        "It began from other weights (format bert, tensors 37).",
        "from_pretrained(FOLDER)",
    ):
        assert said in card, said
    for other in ("split test", "step 3"):  # measured at another step
        assert other not in card
    assert str(run.parent) not in card + (folder / "config.json").read_text()


def open_inputs_of(run):
    return open_inputs(Settings.from_config(load_meta(run).settings).data)


def test_a_run_outlives_its_shards(run, tmp_path):
    moved = run.parent / "moved"
    (run.parent / "shards").rename(moved)
    try:
        with pytest.raises(UserError, match="shards are not at hand, nor is a tokenizer"):
            export(run, tmp_path / "model")
        (kept,) = moved.glob("**/tokenizer")
        folder = export(run, tmp_path / "model", tokenizer=str(kept))
        assert "not at hand when this was written" in (folder / "README.md").read_text()
        folder = export(run, tmp_path / "again", sources=[str(moved)])
        assert "| shop |" in (folder / "README.md").read_text()
    finally:
        moved.rename(run.parent / "shards")


def test_another_tokenizer_is_refused(run, tmp_path):
    tokenizer().save(tmp_path / "words")
    with pytest.raises(UserError, match="--tokenizer: another vocabulary"):
        export(run, tmp_path / "model", tokenizer=str(tmp_path / "words"))


def command(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *arguments],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )


def test_the_commands(run, tmp_path):
    folder, output = tmp_path / "model", tmp_path / "shop.npz"
    done = command("export", f"--workdir={run}", f"--output={folder}", "--platforms=cpu")
    assert done.returncode == 0, done.stderr
    assert f"{folder / 'embed.jax_export'}\n" in done.stdout

    shop = run.parent / "shop"
    dump = tmp_path / "dump"
    shutil.copytree(shop, dump)
    with (dump / "products.jsonl").open("a") as file:
        file.write("{}\n")
    flags = (f"--model={folder}", "--format=jsonl", f"--input={dump}")
    done = command("embed", *flags, f"--output={output}", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert '"missing_id": 1' in done.stdout
    with np.load(output) as written:
        ids = [json.loads(line)["id"] for line in (shop / "products.jsonl").open()]
        assert written["ids"].tolist() == ids
        assert written["vectors"].shape == (len(ids), 32)
        vectors = dict(zip(ids, written["vectors"], strict=True))
    # The shards' records are the dump's.
    records = list(open_inputs_of(run).shard_sets[0].source("train"))[:8]
    expected = from_pretrained(folder).embed(records)
    np.testing.assert_allclose([vectors[r["id"]] for r in records], expected, atol=1e-5)

    wrong = command("embed", *flags, "--output=nowhere/shop.npz")
    assert wrong.returncode == EXIT_USER_ERROR
    assert "--output: nowhere/shop.npz is not an .npz in a folder that exists" in wrong.stderr
