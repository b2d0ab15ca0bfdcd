"""The command as a user runs it, on a checkpoint that was never trained."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from configs import quickstart
from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.evaluation.report import metrics_of
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Settings
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.checkpoints import Checkpoints, Meta
from k3m_jax.training.trainer import Trainer
from launch.cli import EXIT_USER_ERROR

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that stands at step 0; its shards lie beside it."""
    folder = tmp_path_factory.mktemp("evaluate")
    for seed, name in enumerate(("shards", "others")):
        catalogue = folder / f"catalogue-{name}"
        make_catalogue(catalogue, products=40, seed=seed, overlap=0.5, image_size=32)
        sizes = {"image_size": 96, "patch_size": 16, "codebook_size": 16}
        build(BuildArguments("jsonl", str(catalogue), str(folder / name), **sizes))
    config = quickstart.get_config("debug")
    config.data.sources = (str(folder / "shards"),)
    config.mesh.data = 1
    settings = Settings.from_config(config)
    inputs = open_inputs(settings.data)
    settings = inputs.resolve(settings)
    program = Trainer(Network(settings), make_mesh(settings.mesh))
    meta = Meta.of(settings, ["none"], inputs.tokenizer.fingerprint)
    with contextlib.closing(Checkpoints(folder / "run", meta, keep=1)) as checkpoints:
        checkpoints.save(0, program.init(), {"next_index": 0}, loss=1.0)
    return folder / "run"


def evaluate(*arguments, module="launch.evaluate"):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )


def test_prints_and_writes_the_table(run):
    done = evaluate(f"--workdir={run}", "--split=test")
    assert done.returncode == 0, done.stderr
    written = json.loads((run / "evaluation-test.json").read_text())
    assert written["split"] == "test"
    assert written["checkpoint"] == 0
    assert written["metrics"].keys() == set(metrics_of(("mlm", "mom", "lpm")))
    for name, metric in written["metrics"].items():
        assert metric["questions"] > 0, name
        assert metric["floor"] is not None, name
    # Fresh parameters know nothing that the floor does not.
    accuracy = written["metrics"]["mlm_accuracy"]
    assert accuracy["interval"][0] <= max(accuracy["floor"], 0.05)
    assert "link MRR" in done.stdout
    assert "| link MRR |" in (run / "evaluation-test.md").read_text()
    assert (run / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint=7"], "no checkpoint of step 7, only of [0]"),
        (["--split=nowhere"], "in a split 'nowhere', only in"),
        (["--mesh=1,1"], "mesh 1,1: three numbers are expected"),
        (["--sources={folder}/others"], "--tokenizer: another vocabulary"),
    ],
)
def test_mistakes_are_told_in_one_line(run, arguments, said):
    arguments = [argument.format(folder=run.parent) for argument in arguments]
    done = evaluate(f"--workdir={run}", *arguments)
    assert done.returncode == EXIT_USER_ERROR
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fine_tuned_run_is_measured_on_a_folder_of_products_as_it_comes(run):
    tuned, raw = run.parent / "tuned", run.parent / "catalogue-others"
    config = ["--config=configs/finetune_alignment.py:debug", f"--config.init_from={run}"]
    done = evaluate(*config, f"--workdir={tuned}", module="launch.finetune")
    assert done.returncode == 0, done.stderr
    measured = (f"--workdir={tuned}", "--split=test", "--corruption=INR100")
    done = evaluate(*measured)
    assert done.returncode == 0, done.stderr
    shards, moved = run.parent / "shards", run.parent / "moved"
    shards.rename(moved)
    try:
        done = evaluate(*measured, f"--sources={raw}", f"--trained_on={moved}")
        # What embeds can be probed for another task, by a head of its own.
        how = ("--task=classification", f"--trained_on={moved}")
        probed = evaluate(f"--workdir={tuned}", *how, module="launch.probe")
    finally:
        moved.rename(shards)
    assert done.returncode == 0, done.stderr
    assert probed.returncode == 0, probed.stderr
    assert f"Measured on {raw}." in done.stdout
    own = tuned / "evaluation-alignment-test-INR100.json"
    (others,) = tuned.glob("evaluation-alignment-test-INR100-*.json")
    told = [json.loads(path.read_text()) for path in (own, others)]
    assert [x["elsewhere"] and x["elsewhere"]["sources"] for x in told] == [None, [str(raw)]]
    assert set(told[1]["metrics"]) == {"f1", "auc"}
    ids = {line["id"] for line in read_lines(raw / "products.jsonl") if line["split"] == "test"}
    asked = [x for x in read_lines(raw / "align_pairs.jsonl") if {x["a"], x["b"]} <= ids]
    assert told[1]["examples"] + sum(told[1]["left_out"].values()) == len(asked) > 0
    assert json.loads((tuned / "probe-classification-test.json").read_text())["examples"] > 0


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_probe_writes_a_table_for_each_setting(run):
    arguments = ["--task=classification", "--split=valid", "--corruption=clean,TMR50"]
    done = evaluate(f"--workdir={run}", *arguments, module="launch.probe")
    assert done.returncode == 0, done.stderr
    names = ("probe-classification-valid", "probe-classification-valid-TMR50")
    clean, corrupt = (json.loads((run / f"{name}.json").read_text()) for name in names)
    assert clean["examples"] == corrupt["examples"] > 0
    assert set(clean["metrics"]) == {"accuracy"}
    assert "title naive Bayes" in done.stdout
    done = evaluate(f"--workdir={run}", "--task=pretraining", module="launch.probe")
    assert done.returncode == EXIT_USER_ERROR
    assert "--task=pretraining: not one of classification, alignment, questions" in done.stderr


def test_fine_tuning_costs_what_the_model_costs_that_it_starts_from(run, tmp_path):
    file = tmp_path / "tuned.py"
    file.write_text(
        "from configs import finetune_questions\n"
        "def get_config():\n"
        "    config = finetune_questions.get_config()\n"
        f"    config.init_from = {str(run)!r}\n"
        "    return config\n"
    )
    both = ["--configs=configs/quickstart.py:debug", f"--configs={file}"]
    shards = run.parent / "shards"
    done = evaluate(f"--sources={shards}", *both, module="launch.compare_cost")
    assert done.returncode == 0, done.stderr
    _, _, *rows = done.stdout.splitlines()
    model, tuned = (int(row.split("|")[2].replace(",", "")) for row in rows)
    D = 32
    assert tuned - model == 3 * (D * D + D)  # the head's
