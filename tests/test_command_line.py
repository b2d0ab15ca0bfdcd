"""What all commands share: help, the resolved settings, mistakes, and running in-process."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from k3m_jax.settings import Settings
from k3m_jax.settings.schema import groups_of
from launch.cli import EXIT_USER_ERROR, run_command

SHARED = ("__init__", "cli", "dump_flags", "run_flags")
COMMANDS = sorted({path.stem for path in (ROOT / "launch").glob("*.py")} - {*SHARED})
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"
KEYS = [setting.name for *_, settings in groups_of(Settings()) for setting in settings]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_the_flags_and_all_keys_of_a_configuration(name, capsys):
    assert run_command(f"launch.{name}", ["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(sys.modules[f"launch.{name}"].__doc__.strip().splitlines()[0])
    if "  --config  " in out:
        assert [key for key in KEYS if f"  --config.{key}=" not in out] == []
        assert "--print_config" in out


def test_print_config_prints_what_a_command_line_results_in(capsys):
    flags = [f"{QUICKSTART}:debug", "--config.seed=7", "--config.data.sources=('a','b')"]
    assert run_command("launch.pretrain", [*flags, "--print_config"]) == 0
    settings = Settings.from_config(json.loads(capsys.readouterr().out))
    assert (settings.seed, settings.data.sources) == (7, ("a", "b"))
    assert settings.training.steps == 20


def test_nothing_is_kept_from_one_command_to_the_next(capsys):
    for seed in ("--config.seed=3", "--config.seed=4"):
        assert run_command("launch.finetune", [QUICKSTART, seed, "--print_config"]) == 0
    assert run_command("launch.pretrain", [QUICKSTART, "--print_config"]) == 0
    seeds = [line for line in capsys.readouterr().out.splitlines() if '"seed"' in line]
    assert seeds == ['  "seed": 3,', '  "seed": 4,', '  "seed": 0,']


@pytest.mark.parametrize(
    ("command", "arguments", "key"),
    [
        ("pretrain", [], "--config"),
        ("pretrain", [QUICKSTART], "--workdir"),
        ("pretrain", [QUICKSTART, "--workdir=x", "more"], "'more'"),
        ("pretrain", [QUICKSTART, "--workdir=x", "--sources=y"], "'sources'"),
        ("pretrain", ["--workdir=x", "--config=nowhere.py"], "nowhere.py"),
        ("pretrain", [QUICKSTART, "--workdir=x", "--config.sead=1"], "'sead'"),
        ("pretrain", [QUICKSTART, "--workdir=x", "--config.training.steps=0"], "training.steps"),
        ("finetune", [QUICKSTART, "--workdir=x"], "task.name"),
        ("show_batch", [QUICKSTART, "--rows=0"], "--rows"),
        ("probe", ["--workdir=x", "--task=questions", "--options.labl=a"], "'labl'"),
        ("probe", ["--workdir=x", "--task=questions", "--distributed.process=1"], "--distributed"),
        ("compare_cost", ["--sources=x", "--configs=nowhere.py"], "nowhere.py"),
        ("sweep", ["--workdir=x", "--grid=nowhere.py"], "nowhere.py"),
        ("build_shards", ["--format=csv", "--input=x", "--output=y"], "--format"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_flag(command, arguments, key, capsys):
    assert run_command(f"launch.{command}", arguments) == EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert key in line


def test_a_process_ends_with_the_code_of_its_command():
    command = [sys.executable, "-m", "launch.compare", "--runs=/nowhere/a,/nowhere/b"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr.splitlines()[-1].startswith("error: --runs: /nowhere/a")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_failure_of_a_command():
    """As `head` does; its end of the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "launch.compare", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
