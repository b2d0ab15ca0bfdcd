"""A step is saved before it is evaluated, and evaluated once, whatever comes between."""

import dataclasses

import pytest
from test_loop import METRICS, assert_same_run, evaluate, last_state, read_metrics, run, whole  # noqa: F401

from k3m_jax.data.build.local import build
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.evaluation.evaluator import Evaluator
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Data, Mesh, UserError
from tests.tiny import TINY
from tests.troubled import arguments, write_catalog


def test_an_evaluation_that_fails_costs_no_step(whole, tmp_path):  # noqa: F811
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, evaluate=lambda params: 1 / 0)
    assert last_state(tmp_path).step == 5
    assert read_metrics(tmp_path / METRICS)[-1]["step"] == 5
    with pytest.raises(ZeroDivisionError):  # before any further step
        run(tmp_path, evaluate=lambda params: 1 / 0)
    assert read_metrics(tmp_path / METRICS)[-1]["step"] == 5
    assert run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_held_out_numbers_without_their_loss_are_measured_again(whole, tmp_path):  # noqa: F811
    """As a kill leaves them between the two."""
    assert run(tmp_path)
    (tmp_path / "checkpoints" / "10" / "held_out.json").unlink()
    assert run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_split_that_is_not_there(tmp_path):
    write_catalog(tmp_path / "dump")
    shards = build(arguments(tmp_path / "dump", tmp_path / "data", vocabulary_size=300))
    data = Data(sources=(str(shards.folder),), valid_split="held_out")
    inputs = open_inputs(data)
    settings = dataclasses.replace(TINY, data=data)
    with pytest.raises(UserError, match=r"data\.valid_split: no source has a split 'held_out'"):
        Evaluator(Network(settings), make_mesh(Mesh(data=1)), inputs).check()
