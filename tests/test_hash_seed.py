"""A program is the same in every process: what is traced depends on no order of a set.

Else processes that train as one would compile different programs, and a cache would keep none.
"""

import hashlib
import os
import subprocess
import sys

import pytest
from conftest import ROOT

TRACED = """
import hashlib
import jax
from random_batch import random_batch
from k3m_jax import objectives
from k3m_jax.evaluation.evaluator import item_sums
from tests.tiny import TINY, tiny_program

program, active = tiny_program(), objectives.active(TINY)
batch = random_batch(TINY, 8)

def evaluate(params, batch):
    return item_sums(active, program.network.apply(params, batch), batch)

params = program.abstract_state.params
texts = program.lower().as_text(), jax.jit(evaluate).lower(params, batch).as_text()
print(hashlib.sha256("".join(texts).encode()).hexdigest())
"""


@pytest.mark.slow
def test_a_program_does_not_depend_on_the_hash_seed():
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TRACED],
            env=environment | {"PYTHONHASHSEED": seed},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1")
    ]
    found = [process.communicate()[0].strip() for process in started]
    assert found[0] == found[1]
    assert len(found[0]) == 2 * hashlib.sha256().digest_size
