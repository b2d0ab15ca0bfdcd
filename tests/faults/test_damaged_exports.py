"""An exported folder, damaged: it gives what was exported, or one line."""

import shutil

import jax
import numpy as np
import pytest
from damage import KINDS, inflict

from k3m_jax.pretrained.weights_file import WEIGHTS, read_weights, write_weights
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.product_model import CONFIG, TOKENIZER
from k3m_jax.settings import UserError
from tests.exported import tiny_folder, tiny_model, tiny_params


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, WEIGHTS])
def test_opening_it(tmp_path, name, kind):
    folder = shutil.copytree(tiny_folder(), tmp_path / "model")
    inflict(folder / name, kind, seed=3)
    with pytest.raises(UserError) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_of_the_same_sizes(tmp_path):
    folder = shutil.copytree(tiny_folder(), tmp_path / "model")
    other = jax.tree.map(lambda x: x + 1, tiny_params(tiny_model()))
    write_weights(folder / WEIGHTS, other, {})
    with pytest.raises(UserError, match="not the file that"):
        from_pretrained(folder)


@pytest.mark.parametrize("seed", range(20))
def test_bit_flips_of_a_weights_file_alone(tmp_path, seed):
    """As `init_from` reads it, without a config.json beside it."""
    params = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}
    write_weights(tmp_path / WEIGHTS, params, {"step": 3})
    inflict(tmp_path / WEIGHTS, "flip", seed)
    try:
        weights, meta = read_weights(tmp_path / WEIGHTS)
    except UserError:
        return
    for name, array in params.items():
        np.testing.assert_array_equal(weights[name], array)
    assert meta == {"step": 3}
