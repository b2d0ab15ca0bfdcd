"""The command as a user runs it, on a small catalogue made for the occasion."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.runs.training_run import CONFIG
from k3m_jax.settings import Settings
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.preemption import EXIT_PREEMPTED
from k3m_jax.training.progress import METRICS, TIMING, read_metrics
from launch.cli import EXIT_USER_ERROR

STEPS = 60  # seven epochs


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Starts the command with more arguments; compiles once for all of them."""
    folder = tmp_path_factory.mktemp("pretrain")
    make_catalogue(folder / "catalogue", products=60, seed=0, overlap=0.5, image_size=32)
    arguments = BuildArguments(
        "jsonl", str(folder / "catalogue"), str(folder / "shards"), image_size=96, patch_size=16
    )
    build(arguments)
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(workdir, *more, **options):
        return subprocess.Popen(
            [
                sys.executable, "-m", "launch.pretrain",
                "--config=configs/quickstart.py:debug",
                f"--workdir={workdir}",
                f"--config.data.sources={folder / 'shards'}",
                f"--config.training.steps={STEPS}",
                "--config.training.checkpoint_every=10",
                "--config.training.eval_every=30",
                "--config.mesh.data=1",
                *more,
            ],
            cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
            **options,
        )  # fmt: skip

    return start


def wait_for_step(workdir, step, process):
    """Until the run has written that many steps."""
    while process.poll() is None:
        lines = read_metrics(workdir / METRICS)
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"ended before step {step}: {process.communicate()[1]}")


@pytest.mark.slow
def test_killed_or_stopped_the_same_command_goes_on_exactly(command, tmp_path):
    whole = command(tmp_path / "whole")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors

    parts = tmp_path / "parts"
    killed = command(parts)
    wait_for_step(parts, 15, killed)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL

    stopped = command(parts)
    wait_for_step(parts, 35, stopped)
    stopped.terminate()
    _, errors = stopped.communicate()
    assert stopped.returncode == EXIT_PREEMPTED, errors
    assert "run the same command to go on" in errors

    resumed = command(parts)
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert (parts / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()
    lines = read_metrics(parts / METRICS)
    assert lines[-1]["step"] == STEPS
    assert lines[-1]["valid/link_mrr"] > 0
    assert read_metrics(parts / TIMING)[-1]["timing/data_wait_share"] < 1

    other = command(parts, "--config.optimizer.learning_rate=0.5")
    _, errors = other.communicate()
    assert other.returncode == EXIT_USER_ERROR
    assert errors.strip().splitlines()[-1].startswith("error: ")
    assert "optimizer.learning_rate = 0.003, not 0.5" in errors
    config = json.loads((parts / CONFIG).read_text())
    assert Settings.from_config(config).optimizer.learning_rate == 0.003
    assert config["model"]["vocabulary"] > 0  # as the data set says


def living(group):
    """What runs of a group of processes; zombies do not count."""
    table = subprocess.check_output(["ps", "-A", "-o", "pgid=,stat=,args="], text=True)
    rows = [line.split(maxsplit=2) for line in table.splitlines()]
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_the_workers_too(command, tmp_path):
    """They leave it to their parent, which saves and closes them."""
    process = command(tmp_path, "--config.data.workers=2", start_new_session=True)
    wait_for_step(tmp_path, 10, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == EXIT_PREEMPTED, errors
    assert "Traceback" not in errors
    step = read_metrics(tmp_path / METRICS)[-1]["step"]
    assert (tmp_path / "checkpoints" / str(step)).is_dir()
    # Helpers of multiprocessing end when they hear of their parent's end, which takes a moment.
    deadline = time.monotonic() + 20
    while left := living(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.optimizer.learning_rat=1", "unknown setting 'learning_rat'"),
        ("--config.optimzer.learning_rate=1", "unknown setting 'optimzer'"),
        ("--config.training.steps=abc", "--config.training.steps=abc: "),
        ("--steps=10", "'steps'"),
        ("--config=configs/quickstart.py:bug", "no variant 'bug'"),
        ("--config=configs/quick.py", "configs/quick.py"),
        ("--config.model.text.heads=5", "model.text.heads 5"),
        ("--config.data.tokenizer=/nowhere", "/nowhere"),
        ("--config.data.sources=/nowhere", "/nowhere"),
        pytest.param(
            "--config.data.sources=s3://bucket/shards",
            "Install s3fs to access S3 (docs/data.md)",
            marks=pytest.mark.skipif(bool(importlib.util.find_spec("s3fs")), reason="it is there"),
        ),
        ("--config.image.patch_size=8", "image.patch_size is 8"),
        ("--config.training.batch=7", "training.batch 7 is not a multiple"),
        ("--config.mesh.fsdp=64", "mesh.fsdp=64"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(command, tmp_path, argument, message):
    process = command(tmp_path, argument)
    _, errors = process.communicate()
    assert process.returncode == EXIT_USER_ERROR
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message in line
