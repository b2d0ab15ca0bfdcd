"""What an exported folder holds, and how it comes back."""

import json

import jax
import numpy as np
import pytest
from conftest import ROOT
from exported import every_pattern, export, tiny_model, tiny_params
from products import tokenizer
from transformers import AutoTokenizer

from k3m_jax.pretrained.weights_file import flat
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.folder import CONFIG, VERSION, WEIGHTS
from k3m_jax.settings import Data, UserError
from tests.tiny import TINY

V1 = ROOT / "tests" / "golden" / "export_v1"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("export") / "model", tiny_model(), card="# A model\n")


def test_parameters_and_settings_come_back(exported):
    model = from_pretrained(str(exported))
    expected = flat(tiny_params(tiny_model()))
    for name, array in flat(jax.device_get(model.params)).items():
        assert array.tobytes() == expected[name].tobytes(), name
    assert model.network.settings.model == tiny_model().settings.model
    assert model.network.settings.lengths == TINY.lengths
    assert model.tokenizer.fingerprint == tokenizer().fingerprint


def test_transformers_open_the_tokenizer(exported):
    opened = AutoTokenizer.from_pretrained(exported)
    text = "velti red thing of wool"
    words = tokenizer()
    assert opened(text).input_ids == [words.cls, *words.encode(text), words.sep]
    assert (opened.pad_token_id, opened.mask_token_id) == (words.pad, words.mask)


def test_the_folder_says_what_it_is_and_nothing_of_this_machine(exported):
    config = json.loads((exported / CONFIG).read_text())
    assert (config["format"], config["version"]) == ("k3m_jax", VERSION)
    assert config["origin"] == {"step": 3}
    (arrays,) = config["functions"]["embed"]
    assert arrays["title_tokens"] == {"shape": ["B", 8], "dtype": "int32"}
    assert "region_hidden" not in arrays
    picture = json.loads((exported / "preprocessor_config.json").read_text())
    assert picture["pad_size"] == {"height": 8, "width": 8}
    assert (exported / "README.md").read_text() == "# A model\n"
    assert not list(exported.glob("*.jax_export"))  # no platform was named
    assert not list(exported.parent.glob(".*"))
    for path in exported.iterdir():
        assert str(ROOT).encode() not in path.read_bytes(), path


def test_where_the_data_lay_stays_at_home():
    chosen = from_pretrained(V1).network.settings
    assert chosen.data == Data()


def test_a_folder_of_version_1_gives_the_vectors_it_gave():
    golden = np.load(V1 / "expected.npz")
    model = from_pretrained(V1)
    # float32 in another version's order of additions; the vectors are about 1.
    np.testing.assert_allclose(model.embed(every_pattern()), golden["vectors"], atol=1e-5)


def copied(exported, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change_config(folder, **keys):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | keys))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / CONFIG).unlink(), "is not an exported model: there is no"),
        (lambda f: (f / CONFIG).write_text("{"), "config.json is not JSON"),
        (lambda f: (f / CONFIG).write_text("[]"), "not a model exported by k3m_jax"),
        (lambda f: change_config(f, format="bert"), "not a model exported by k3m_jax"),
        (lambda f: change_config(f, version=2), "has version 2 of the format, .* reads up to 1"),
        (lambda f: change_config(f, version=None), "config.json is damaged: it has no version"),
        (lambda f: change_config(f, settings="s"), "config.json is damaged: it has no settings"),
        (lambda f: change_config(f, settings={"sed": 1}), "unknown setting sed"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is not the one that was exported"),
        (lambda f: (f / WEIGHTS).unlink(), "model.safetensors: there is no such file"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "model.safetensors is not a safetensors"),
    ],
)
def test_a_folder_that_is_no_export_is_told(exported, tmp_path, change, said):
    folder = copied(exported, tmp_path)
    change(folder)
    with pytest.raises(UserError, match=said):
        from_pretrained(folder)


def test_a_folder_that_is_not_empty_is_left_alone(exported, tmp_path):
    (tmp_path / "empty").mkdir()
    export(tmp_path / "empty", tiny_model())
    assert (tmp_path / "empty" / CONFIG).exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for taken in (tmp_path / "full", tmp_path / "full" / "notes.txt", exported):
        with pytest.raises(UserError, match="exists and is not empty"):
            export(taken, tiny_model())
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_an_unknown_platform_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="--platforms: 'gpu' is not one of cpu, cuda, tpu"):
        export(tmp_path / "model", tiny_model(), ("cpu", "gpu"))
    assert not (tmp_path / "model").exists()
