"""The `release` preset against the PyTorch release: every tensor, gradient and step."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
from etils import epath

from k3m_jax.reproductions.release import golden as golden_module
from k3m_jax.reproductions.release.golden import _Golden, compare, relative_error, table
from k3m_jax.reproductions.release.golden_inputs import AdamW
from k3m_jax.settings import UserError

GOLDEN = ROOT / "tests" / "golden" / "k3m_release"
MODES = ["hard", "interactive", "mean", "soft"]


@pytest.fixture(scope="module")
def differences():
    return compare(GOLDEN)


@pytest.mark.parametrize("mode", MODES)
def test_every_tensor_of_the_forward_pass_is_the_release_s(differences, mode):
    own = [each for each in differences if (each.kind, each.mode) == ("outputs", mode)]
    stored = np.load(GOLDEN / f"outputs_{mode}.npz").files
    assert [each.tensor for each in own] == [n for n in stored if not n.startswith("gumbel")]
    assert all(each.limit == 1e-5 for each in own)
    assert all(each.within for each in own), table(own)


def test_every_gradient_is_the_release_s(differences):
    own = [each for each in differences if each.kind == "gradients"]
    assert {each.tensor for each in own} == set(np.load(GOLDEN / "grads_mean.npz").files)
    assert all(each.limit == 1e-4 for each in own)
    assert all(each.within for each in own), table(own)


def test_five_steps_of_adamw_are_the_release_s(differences):
    (trajectory,) = (each for each in differences if each.kind == "trajectory")
    assert trajectory.limit == 1e-4
    assert trajectory.within, table(differences)


def test_the_table_has_a_line_for_each_tensor_and_a_column_for_each_mode(differences):
    lines = table(differences).splitlines()
    assert lines[0].split() == ["relative", "error", *MODES]
    assert len(lines) == 1 + 22 + 1 + 1 + 1  # tensors, gradients, trajectory, the worst gradient
    assert all(len(line.split()) == 5 for line in lines[1:23])
    wrong = [each._replace(error=float("nan")) for each in differences]
    assert table(wrong).count("nan !") == 4 * 22 + 2
    assert not any(each.within for each in wrong)


def test_relative_error_is_the_largest_difference_by_the_largest_number():
    golden = np.array([[1.0, -4.0]])
    assert relative_error([[1.5, -4.0]], golden) == 0.125
    assert relative_error([[1.5, -4.0]], golden, floor=5.0) == 0.1
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.zeros(3), golden) == float("inf")
    assert np.isnan(relative_error([[np.nan, 1.0]], golden))


def test_adamw_leaves_alone_what_has_no_gradient():
    adamw = AdamW.parse("AdamW lr=1e-1 betas=(.9,.999) eps=1e-8 weight_decay=.5 …", "there")
    params = {"used": np.ones(2, np.float32), "unused": np.ones(2, np.float32)}
    gradient = {"used": np.array([0.5, 0.0]), "unused": np.zeros(2)}
    after, _ = adamw.step(1, params, gradient, {})
    # The first step is of the rate's length, and decay takes 5 %, with or without a gradient.
    np.testing.assert_allclose(after["used"], [0.85, 0.95], rtol=1e-6)
    np.testing.assert_array_equal(after["unused"], 1)
    with pytest.raises(UserError, match=r"there is of an optimizer"):
        AdamW.parse("SGD lr=1", "there")


def _copy(folder, *names):
    for name in ("config.json", "model.safetensors", "inputs.npz", *names):
        shutil.copy(GOLDEN / name, folder / name)
    return folder


def _change(path, **values):
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_size": 30}, "model.text.heads 4"),
        ({"hidden_size": 36}, "has the shape .* the model's settings need"),
        ({"num_hidden_layers": 5}, "lacks .*layer.4"),
        ({"num_hidden_layers": 3}, "layer.3.* is no name of a released K3M"),
        ({"t_biattention_id": [3, 2]}, "model.interactor.text_layers: .* does not rise"),
        ({"t_biattention_id": [2, 5]}, "passes the 4 layers"),
        ({"v_biattention_id": [0]}, "model.interactor.image_layers has 1 numbers for 2"),
    ],
)
def test_a_configuration_that_does_not_fit_is_reported(tmp_path, change, message):
    folder = _copy(tmp_path, "grads_mean.npz")
    _change(folder / "config.json", **change)
    with pytest.raises(UserError, match=message):
        compare(folder)


def test_a_folder_of_something_else_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"no readable config\.json"):
        compare(tmp_path)
    with pytest.raises(UserError, match=r"no outputs_MODE\.npz"):
        compare(_copy(tmp_path))


def _cut(name):
    def change(folder):
        (folder / name).write_bytes((GOLDEN / name).read_bytes()[:500])

    return change


def _arrays(file, **changes):
    """Arrays of a file changed, or left out by None."""

    def change(folder):
        arrays = dict(np.load(GOLDEN / file))
        arrays |= {name: f(arrays[name]) for name, f in changes.items()}
        np.savez(folder / file, **{n: x for n, x in arrays.items() if x is not None})

    return change


def _without(_):
    return None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "inputs.npz").unlink(), r"inputs\.npz does not exist"),
        (_cut("inputs.npz"), r"inputs\.npz is not an \.npz"),
        (_cut("model.safetensors"), r"model\.safetensors is not a safetensors file"),
        (_cut("config.json"), r"no readable config\.json"),
        (_arrays("inputs.npz", image_loc=_without), r"lacks the array image_loc \[B, R, 5\]"),
        (_arrays("inputs.npz", index_v=lambda x: x[:, :2]), r"index_v .* \(3, 2, 2\), .* X = 4"),
        (_arrays("inputs.npz", image_label=lambda x: x[:, 1:]), r"image_label .* R = 7"),
        (_arrays("inputs.npz", input_ids=np.ravel), r"input_ids \[B, T\] has the shape \(36,\)"),
        (_arrays("inputs.npz", token_type_ids=np.ones_like), "token types other than 0"),
        (_arrays("outputs_hard.npz", gumbel_v=_without), r"outputs_hard\.npz lacks gumbel_v"),
        (
            lambda f: (f / "outputs_hard.npz").rename(f / "outputs_hardest.npz"),
            r"outputs_hardest\.npz: 'hardest' is no mode of fusion \(mean, soft, hard, ",
        ),
        (
            lambda f: (f / "trajectory_mean.json").write_text('{"losses": [1.0]}'),
            r"trajectory_mean\.json lacks .* KeyError\('optimizer'\)",
        ),
        (
            lambda f: (f / "trajectory_mean.json").rename(f / "trajectory_hard.json"),
            r"trajectory_hard\.json: hard fusion draws new noise at each step",
        ),
    ],
)
def test_files_and_arrays_that_are_lacking_or_not_understood_are_reported(tmp_path, change, said):
    arrays = "outputs_hard.npz" in said.replace("\\", "") or "hardest" in said
    folder = _copy(tmp_path, "outputs_hard.npz" if arrays else "trajectory_mean.json")
    change(folder)
    with pytest.raises(UserError, match=said):
        compare(folder)


@pytest.mark.slow
def test_the_command_names_what_is_beyond_its_limit(tmp_path):
    folder = _copy(tmp_path, "outputs_mean.npz")
    _arrays("outputs_mean.npz", c_final=lambda x: x * (1 + 3e-5))(folder)
    command = [sys.executable, "-m", "launch.check_golden", f"--golden={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "error: outputs of mean, c_final: relative error 3.0e-05 is more than 1e"
    )
    assert done.stdout.count(" !") == 1


@pytest.mark.slow
def test_the_total_that_is_differentiated_is_of_the_choices_that_were_drawn():
    """The release's own total in `hard` mode, of which there are no golden gradients."""
    golden = _Golden(epath.Path(GOLDEN))
    total, _ = golden._differentiate("hard")(golden._model("hard")[1])
    losses = np.load(GOLDEN / "outputs_hard.npz")
    parts = ("loss_mlm", "loss_mom", "loss_mlm_pv", "loss_struct")
    np.testing.assert_allclose(total, sum(losses[name][0] for name in parts), rtol=1e-5)


def test_accelerators_compute_in_whole_float32(monkeypatch):
    """On a CPU all precisions are one: this sees what is requested while numbers are made."""
    seen = []

    def spy(*args):
        seen.append(jax.config.jax_default_matmul_precision)
        raise UserError("enough")

    monkeypatch.setattr(golden_module, "released_batch", spy)
    with pytest.raises(UserError, match="enough"):
        compare(GOLDEN)
    assert seen == ["highest"]
