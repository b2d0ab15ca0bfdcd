import jax.numpy as jnp
import numpy as np
import pytest
from exported import tiny_model, tiny_params
from safetensors.numpy import load_file, save_file

from k3m_jax.model.network import flat, nested
from k3m_jax.pretrained.weights_file import fit, read_weights, write_weights
from k3m_jax.settings import UserError


def test_parameters_come_back_bit_by_bit_with_their_meta(tmp_path):
    params = tiny_params(tiny_model())
    write_weights(tmp_path / "w", params, {"step": 3, "of": ["a"]})
    weights, meta = read_weights(tmp_path / "w")
    assert meta == {"step": 3, "of": ["a"]}
    again = fit(weights, tiny_model(), tmp_path / "w")
    assert list(flat(again)) == list(flat(params))
    for name, array in flat(params).items():
        assert flat(again)[name].tobytes() == array.tobytes(), name


def test_names_are_paths_and_any_reader_opens_the_file(tmp_path):
    write_weights(tmp_path / "w", {"b": {"c": np.ones((2, 3)).T}, "a": np.zeros(1)}, {})
    assert load_file(tmp_path / "w")["b/c"].shape == (3, 2)
    assert nested({"b/c": 1, "b/d": 2, "a": 3}) == {"b": {"c": 1, "d": 2}, "a": 3}


def test_whoever_may_read_the_files_beside_it_may_read_it(tmp_path):
    write_weights(tmp_path / "w", {"a": np.zeros(1)}, {})
    (tmp_path / "other").touch()
    assert (tmp_path / "w").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_meta_of_another_writer_is_empty(tmp_path):
    save_file({"x": np.zeros(2)}, tmp_path / "w")
    assert read_weights(tmp_path / "w")[1] == {}


def test_what_is_no_such_file_is_reported(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_weights(tmp_path / "w")
    (tmp_path / "w").write_bytes(b"weights")
    with pytest.raises(UserError, match="w is not a safetensors file"):
        read_weights(tmp_path / "w")


def test_what_others_write_is_read_whatever_its_numbers_are(tmp_path):
    kinds = ("bfloat16", "float16", "float64", "int64", "uint8", "bool")
    given = {kind: np.array([[0, 1]]).astype(jnp.dtype(kind)) for kind in kinds}
    save_file(given, tmp_path / "w", {"format": "pt"})
    weights, _ = read_weights(tmp_path / "w")
    for kind, array in given.items():
        assert weights[kind].dtype == array.dtype
        np.testing.assert_array_equal(weights[kind], array)
    save_file({"x": np.zeros(2, jnp.dtype("float8_e4m3fn"))}, tmp_path / "w")
    with pytest.raises(UserError, match="x holds F8_E4M3: save it as float32"):
        read_weights(tmp_path / "w")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("text_encoder/words"), "lacks 1 parameters, such as text_encoder/words"),
        (lambda w: w.update(more=np.zeros(1)), "has, unknown to the model, 1 .* such as more"),
        (lambda w: w.update(absent=np.zeros(5)), r"absent has the shape \(5,\), .* is \(32,\)"),
    ],
)
def test_what_does_not_fit_is_named(change, said, tmp_path):
    weights = dict(flat(tiny_params(tiny_model())))
    change(weights)
    with pytest.raises(UserError, match=said):
        fit(weights, tiny_model(), tmp_path / "w")
