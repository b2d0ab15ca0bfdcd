"""The command as a user runs it, on a checkpoint that was never trained."""

import contextlib
import json
from typing import NamedTuple

import pytest
from conftest import ROOT

from configs import quickstart
from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.data.store.shards import open_shards
from k3m_jax.model.network import Network
from k3m_jax.objectives import active
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Settings
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.checkpoints import Checkpoints, Meta
from k3m_jax.training.trainer import Trainer
from launch.cli import EXIT_USER_ERROR, run_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that stands at step 0; its shards lie next to it."""
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
    trainer = Trainer(Network(settings), make_mesh(settings.mesh))
    meta = Meta.of(settings, ["none"], inputs.tokenizer.fingerprint)
    with contextlib.closing(Checkpoints(folder / "run", meta, keep=1)) as checkpoints:
        checkpoints.save(0, trainer.init())
        checkpoints.record_loss(0, 1.0)
    return folder / "run"


# A process that has used jax can join no cluster.
ALONE = {
    "evaluate": ["--distributed.coordinator=off"],
    "probe": ["--distributed.coordinator=off"],
    "finetune": ["--config.distributed.coordinator=off"],
}


class Done(NamedTuple):
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capsys):
    """Runs a command in this process."""

    def run(name, *arguments):
        code = run_command(f"launch.{name}", (*arguments, *ALONE.get(name, ())))
        return Done(code, *capsys.readouterr())

    return run


def test_prints_and_writes_the_table(run, command):
    done = command("evaluate", f"--workdir={run}", "--split=test")
    assert done.returncode == 0, done.stderr
    written = json.loads((run / "evaluation-test.json").read_text())
    assert written["split"] == "test"
    assert written["checkpoint"] == 0
    reported = {name for objective in active(Settings()) for name in objective.reported}
    assert written["metrics"].keys() == reported | {"stability"}
    for name, metric in written["metrics"].items():
        assert metric["targets"] > 0, name
        assert metric["baselines"]["floor"]["value"] is not None, name
    # Fresh parameters are no better than the baseline.
    accuracy = written["metrics"]["mlm_accuracy"]
    assert accuracy["interval"][0] <= max(accuracy["baselines"]["floor"]["value"], 0.05)
    assert "link MRR" in done.stdout
    assert "| link MRR |" in (run / "evaluation-test.md").read_text()
    assert (run / "curves.png").stat().st_size > 10_000
    stable = json.loads((run / "stability-test.json").read_text())
    assert stable["metrics"]["TMR100_recall_at_1"]["targets"] > 0
    # Other shards are written with the run's own tokenizer.
    others = run.parent / "others"
    done = command("evaluate", f"--workdir={run}", "--split=test", f"--sources={others}")
    assert done.returncode == 0, done.stderr
    assert f"measured on: {others}, " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint=7"], "no checkpoint of step 7, only of [0]"),
        (["--split=nowhere"], "data.valid_split: no source has a split 'nowhere'"),
        (["--mesh=1,1"], "--mesh=1,1: three numbers are expected"),
        (["--tokenizer={words}"], "--tokenizer: another vocabulary"),
    ],
)
def test_mistakes_are_reported_in_one_line(run, command, arguments, said):
    words = open_shards(run.parent / "others").tokenizer_folder
    arguments = [argument.format(words=words) for argument in arguments]
    done = command("evaluate", f"--workdir={run}", *arguments)
    assert done.returncode == EXIT_USER_ERROR
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fine_tuned_run_is_measured_on_a_folder_of_products(run, command):
    tuned, raw = run.parent / "tuned", run.parent / "catalogue-others"
    config = [f"--config={ROOT}/configs/finetune_alignment.py:debug", f"--config.init_from={run}"]
    done = command("finetune", *config, f"--workdir={tuned}")
    assert done.returncode == 0, done.stderr
    measured = (f"--workdir={tuned}", "--split=test", "--corruption=INR100")
    done = command("evaluate", *measured)
    assert done.returncode == 0, done.stderr
    shards, moved = run.parent / "shards", run.parent / "moved"
    shards.rename(moved)
    try:
        done = command("evaluate", *measured, f"--sources={raw}", f"--trained_on={moved}")
        # The fine-tuned embeddings can be probed for another task.
        how = ("--task=classification", f"--trained_on={moved}")
        probed = command("probe", f"--workdir={tuned}", *how)
    finally:
        moved.rename(shards)
    assert done.returncode == 0, done.stderr
    assert probed.returncode == 0, probed.stderr
    assert f"measured on: {raw}" in done.stdout
    own = tuned / "evaluation-alignment-test-INR100.json"
    (others,) = tuned.glob("evaluation-alignment-test-INR100-*.json")
    own, others = (json.loads(path.read_text()) for path in (own, others))
    assert own["external"] is None
    assert others["external"]["sources"] == [str(raw)]
    assert set(others["metrics"]) == {"f1", "auc"}
    ids = {line["id"] for line in read_lines(raw / "products.jsonl") if line["split"] == "test"}
    pairs = [x for x in read_lines(raw / "align_pairs.jsonl") if {x["a"], x["b"]} <= ids]
    left_out = sum(n for key, n in others["notes"].items() if key.startswith("left out"))
    assert others["notes"]["examples"] + left_out == len(pairs) > 0
    probe = json.loads((tuned / "probe-classification-test.json").read_text())
    assert probe["notes"]["examples"] > 0


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_probe_writes_a_table_for_each_setting(run, command):
    arguments = ["--task=classification", "--split=valid", "--corruption=clean,TMR50"]
    done = command("probe", f"--workdir={run}", *arguments)
    assert done.returncode == 0, done.stderr
    names = ("probe-classification-valid", "probe-classification-valid-TMR50")
    clean, corrupt = (json.loads((run / f"{name}.json").read_text()) for name in names)
    assert clean["notes"]["examples"] == corrupt["notes"]["examples"] > 0
    assert set(clean["metrics"]) == {"accuracy", "macro_f1"}
    assert "title naive Bayes" in done.stdout
    done = command("probe", f"--workdir={run}", "--task=pretraining")
    assert done.returncode == EXIT_USER_ERROR
    assert "--task: 'pretraining' is not one of 'classification', 'alignment', " in done.stderr


def test_fine_tuning_costs_what_its_pretrained_model_costs(run, command, tmp_path):
    file = tmp_path / "tuned.py"
    file.write_text(
        "from configs import finetune_questions\n"
        "def get_config():\n"
        "    config = finetune_questions.get_config()\n"
        f"    config.init_from = {str(run)!r}\n"
        "    return config\n"
    )
    both = [f"--configs={ROOT}/configs/quickstart.py:debug", f"--configs={file}"]
    shards = run.parent / "shards"
    done = command("compare_cost", f"--sources={shards}", *both)
    assert done.returncode == 0, done.stderr
    _, _, *rows = done.stdout.splitlines()
    model, tuned = (int(row.split("|")[2].replace(",", "")) for row in rows)
    D = 32
    assert tuned - model == 3 * (D * D + D)  # the head's


def test_a_file_of_tasks_is_probed_in_one_command(run, command, tmp_path):
    file = tmp_path / "tasks.py"
    file.write_text(
        "import ml_collections\n"
        "def get_config(word):\n"
        "    few = {'name': 'classification', 'labels_per_class': 2, 'hidden_words': (word,)}\n"
        "    return ml_collections.ConfigDict({'few': few, 'other': {'name': 'questions'}})\n"
    )
    how = (f"--workdir={run}", f"--tasks={file}:bag", "--task=few", "--corruption=clean,TMR100")
    done = command("probe", *how, "--classical")
    assert done.returncode == 0, done.stderr
    clean, without = (
        json.loads((run / f"probe-few-test{corruption}.json").read_text())
        for corruption in ("", "-TMR100")
    )
    assert clean["options"]["hidden_words"] == ["bag"]
    assert clean["notes"]["training examples"] <= 2 * len(clean["options"]["classes"])
    baselines = clean["metrics"]["macro_f1"]["baselines"]
    assert {"majority", "text, linear SVM", "5 nearest pictures", "both, late fusion"} <= set(
        baselines
    )
    assert without["notes"]["examples"] == clean["notes"]["examples"]
    done = command("probe", *how[:2], "--task=nothing")
    assert done.returncode == EXIT_USER_ERROR
    assert "--task: 'nothing' is not one of 'few', 'other'" in done.stderr
