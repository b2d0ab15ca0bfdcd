"""The commands, by several processes of this machine that one signal or death ends together."""

import signal
import time

import pytest

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.preemption import EXIT_PREEMPTED
from k3m_jax.training.progress import METRICS, read_metrics
from tests.processes import assert_reports, codes, joining, together

STEPS = 36  # jax looks for signals once a second, in which a fast machine takes many steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small catalogue as shards."""
    folder = tmp_path_factory.mktemp("products")
    make_catalogue(folder / "catalogue", products=60, seed=0, overlap=0.5, image_size=32)
    arguments = BuildArguments(
        "jsonl", str(folder / "catalogue"), str(folder / "shards"), image_size=96, patch_size=16
    )
    build(arguments)
    return folder


@pytest.fixture(scope="module")
def start(folder, cache):
    """Starts a run of two devices, by one process or by two that have one each."""

    def pretrain(name, processes):
        arguments = (
            "launch.pretrain",
            "--config=configs/quickstart.py:debug",
            f"--workdir={folder / name}",
            f"--config.data.sources={folder / 'shards'}",
            "--config.model.text.layers=1",
            "--config.model.image.layers=1",
            "--config.model.interactor.blocks=1",
            f"--config.training.steps={STEPS}",
            "--config.training.eval_every=0",
            "--config.training.checkpoint_every=5",  # under way when one is killed, or just done
        )
        return together(
            lambda address, i: (*arguments, *joining(address, processes, i, "config.")),
            *(processes, 2 // processes, cache, folder / name),
        )

    return pretrain


def step_of(workdir):
    lines = read_metrics(workdir / METRICS)
    return lines[-1]["step"] if lines else 0


def wait_for_steps(workdir, count, processes):
    """Until the run has written `count` more steps."""
    first = step_of(workdir)
    while step_of(workdir) < first + count:
        assert all(process.poll() is None for process in processes), "one ended too early"
        time.sleep(0.02)


@pytest.mark.long
def test_whatever_ends_two_the_run_goes_on_as_if_nothing_had(folder, start, cache):
    undisturbed = start("whole", 1)
    workdir = folder / "run"
    assert_all_save(workdir, 1, signal.SIGTERM, start("run", 2))
    assert_all_save(workdir, 0, signal.SIGINT, start("run", 2))
    assert_all_end(workdir, 0, start("run", 2))  # with it jax's service
    assert codes(start("run", 2)) == [0, 0]
    assert codes(undisturbed) == [0], (folder / "whole.0").read_text()
    assert (workdir / METRICS).read_bytes() == (folder / "whole" / METRICS).read_bytes()

    tables = []
    for processes in (1, 2):
        log = folder / f"evaluate{processes}"
        evaluation = together(
            lambda address, i, n=processes: (
                "launch.evaluate",
                f"--workdir={workdir}",
                *joining(address, n, i),
            ),
            *(processes, 2 // processes, cache, log),
        )
        assert codes(evaluation) == [0] * processes
        tables.append((workdir / "evaluation-valid.json").read_text())
    assert tables[0] == tables[1]
    assert "link MRR" in (folder / "evaluate2.0").read_text()
    assert "link MRR" not in (folder / "evaluate2.1").read_text()


def assert_all_save(workdir, signalled, number, processes):
    """One gets the signal, and all save the same step."""
    wait_for_steps(workdir, 2, processes)
    processes[signalled].send_signal(number)
    assert codes(processes) == [EXIT_PREEMPTED] * 2
    saved = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()]
    assert max(saved) == step_of(workdir) < STEPS
    assert "run the same command to go on" in said_by(workdir, 0).read_text()
    assert "run the same command" not in said_by(workdir, 1).read_text()


def assert_all_end(workdir, killed, processes):
    """One is killed, and all end soon and report it."""
    wait_for_steps(workdir, 2, processes)
    processes[killed].kill()
    assert 0 not in codes(processes, 60)
    for i in range(2):
        assert_reports(said_by(workdir, i), rf"process {i} of 2 died at .*\bstep \d+")


def said_by(workdir, process):
    return workdir.with_name(f"{workdir.name}.{process}")
