"""From a run to an exported folder, what the folder holds, and how it comes back."""

import json
import re
import shutil

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from exported import every_pattern, export, tiny_folder, tiny_model, tiny_params, write_run
from products import tokenizer
from transformers import AutoTokenizer

from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.data.store.shards import open_shards
from k3m_jax.evaluation.report import Report, Row, Score
from k3m_jax.model.network import flat
from k3m_jax.pretrained.weights_file import read_weights
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.dump import vectors_of
from k3m_jax.serving.export import export_run
from k3m_jax.serving.product_model import CONFIG, VERSION, WEIGHTS
from k3m_jax.settings import Data, UserError
from launch.cli import EXIT_USER_ERROR, run_command
from tests.tiny import TINY

GOLDEN = [ROOT / "tests" / "golden" / f"export_v{version}" for version in range(1, VERSION + 1)]


def test_parameters_and_settings_come_back():
    model = from_pretrained(str(tiny_folder()))
    expected = flat(tiny_params(tiny_model()))
    for name, array in flat(jax.device_get(model.params)).items():
        assert array.tobytes() == expected[name].tobytes(), name
    assert model.network.settings.model == tiny_model().settings.model
    assert model.network.settings.lengths == TINY.lengths
    assert model.tokenizer.fingerprint == tokenizer().fingerprint


def test_transformers_open_the_tokenizer():
    opened, words = AutoTokenizer.from_pretrained(tiny_folder()), tokenizer()
    text = "velti red thing of wool"
    assert opened(text).input_ids == [words.cls, *words.encode(text), words.sep]
    assert (opened.pad_token_id, opened.mask_token_id) == (words.pad, words.mask)


def test_the_folder_describes_itself_and_nothing_of_this_machine():
    config = json.loads((tiny_folder() / CONFIG).read_text())
    assert (config["format"], config["version"]) == ("k3m_jax", VERSION)
    assert config["origin"] == {"step": 3}
    (arrays,) = config["functions"]["embed"]
    title = arrays["title_tokens"]
    assert (title["shape"], title["dtype"]) == (["B", 8], "int32")
    assert arrays.keys() == BatchLayout.for_inference(tiny_model().settings).products.keys()
    embeddings, triples = config["functions"]["link_scores"]
    assert (embeddings["shape"], triples["tokens"]["shape"]) == (["B", 32], ["Q", 6])
    assert config["modalities"][0] == "preprocessing.knowledge.Title"
    assert not list(tiny_folder().parent.glob(".*"))
    for path in tiny_folder().rglob("*.*"):
        assert str(ROOT).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda folder: folder.name)
def test_a_folder_of_each_version_gives_the_vectors_it_gave(golden):
    model = from_pretrained(golden)
    assert model.network.settings.data == Data()  # no path of the machine that exported it
    expected = np.load(golden / "expected.npz")["vectors"]
    # float32 in another version's order of additions; the vectors are about 1.
    np.testing.assert_allclose(model.embed(every_pattern()), expected, atol=1e-5)


def change_config(folder, **keys):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | keys))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: (f / CONFIG).unlink(), CONFIG),
        (lambda f: (f / CONFIG).write_text("{"), CONFIG),
        (lambda f: (f / CONFIG).write_text("[]"), CONFIG),
        (lambda f: change_config(f, format="bert"), CONFIG),
        (lambda f: change_config(f, version=VERSION + 1), f"version {VERSION + 1} .* {VERSION}"),
        (lambda f: change_config(f, version=None), CONFIG),
        (lambda f: change_config(f, settings="s"), CONFIG),
        (lambda f: change_config(f, settings={"sed": 1}), CONFIG),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (lambda f: (f / WEIGHTS).unlink(), WEIGHTS),
        (lambda f: (f / WEIGHTS).write_bytes(b""), WEIGHTS),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, change, named):
    folder = shutil.copytree(tiny_folder(), tmp_path / "copy")
    change(folder)
    with pytest.raises(UserError, match=named):
        from_pretrained(folder)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    export(tmp_path / "empty", tiny_model())
    assert (tmp_path / "empty" / CONFIG).exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for taken in (tmp_path / "full", tmp_path / "full" / "notes.txt", tiny_folder()):
        with pytest.raises(UserError, match="exists and is not empty"):
            export(taken, tiny_model())
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_an_unknown_platform_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="--platforms: 'gpu'"):
        export(tmp_path / "model", tiny_model(), ("cpu", "gpu"))
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run at step 7, measured there and at another step, with its shards next to it."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder / "run", folder)
    mrr = Row("link_mrr", "link MRR", Score(0.625), {"majority": Score(0.25)}, 40, "links")
    accuracy = Row("accuracy", "accuracy", Score(0.875), {"majority": Score(0.125)}, 40, "items")
    for split, step in (("valid", 7), ("test", 3)):
        for kind, task, row in (
            ("evaluation", "pretraining", mrr),
            ("probe", "classification", accuracy),
        ):
            Report(kind, task, split, "", step, (row,), {}).write(folder / "run")
    return folder / "run"


def exported(run, output, **options):
    export_run(run, output, **{"which": "best", "platforms": ()} | options)
    return output, (output / "README.md").read_text()


@pytest.mark.slow
def test_the_best_checkpoint_is_exported_bit_by_bit_with_its_card(run, tmp_path):
    folder, card = exported(run, tmp_path / "model")
    expected = flat(tiny_params(from_pretrained(folder).network))
    weights, meta = read_weights(folder / WEIGHTS)
    assert weights.keys() == expected.keys()
    assert all(weights[name].tobytes() == x.tobytes() for name, x in expected.items())
    assert meta["step"] == 7
    for fact in (
        f"| shop | {open_shards(run.parent / 'shards').info.products['train']} train, ",
        "7 of 20 steps of 16 products",
        "| link MRR | 62.5 % | 25.0 % | 40 links |",
        "| accuracy | 87.5 % | 12.5 % | 40 items |",
        "format bert, tensors 37",
        "from_pretrained(FOLDER)",
    ):
        assert fact in card, fact
    for other in ("split test", "step 3"):  # measured at another step
        assert other not in card
    assert str(run.parent) not in card + (folder / CONFIG).read_text()


@pytest.mark.slow
def test_a_run_outlives_its_shards(run, tmp_path):
    moved = run.parent / "moved"
    (run.parent / "shards").rename(moved)
    try:
        with pytest.raises(UserError, match="--tokenizer"):
            exported(run, tmp_path / "model")
        (words,) = moved.glob("**/tokenizer")
        _, card = exported(run, tmp_path / "model", tokenizer=str(words))
        assert "not available when this was written" in card
        _, card = exported(run, tmp_path / "again", sources=[str(moved)])
        assert "| shop |" in card
    finally:
        moved.rename(run.parent / "shards")


@pytest.mark.slow
def test_another_tokenizer_is_refused(run, tmp_path):
    tokenizer().save(tmp_path / "words")
    with pytest.raises(UserError, match="--tokenizer: another vocabulary"):
        exported(run, tmp_path / "model", tokenizer=str(tmp_path / "words"))


@pytest.mark.slow
def test_the_commands(run, tmp_path, capsys):
    folder, output = tmp_path / "model", tmp_path / "vectors"
    flags = [f"--workdir={run}", f"--output={folder}", "--platforms="]
    assert run_command("launch.export", flags) == 0
    assert f"{folder / WEIGHTS}\n" in capsys.readouterr().out

    shop, dump = run.parent / "shop", tmp_path / "dump"
    shutil.copytree(shop, dump)
    with (dump / "products.jsonl").open("a") as file:
        file.write("{}\n")
    flags = [f"--model={folder}", "--format=jsonl", f"--input={dump}", "--workers=1"]
    assert run_command("launch.embed", [*flags, f"--output={output}"]) == 0
    assert '"missing_id": 1' in capsys.readouterr().out
    written = pq.read_table(str(output))
    products = [json.loads(line) for line in (shop / "products.jsonl").open()]
    assert written["id"].to_pylist() == [product["id"] for product in products]
    vectors = dict(zip(written["id"].to_pylist(), vectors_of(written), strict=True))
    # The records of the shards are those of the dump.
    records = list(open_shards(run.parent / "shards").source("train"))[:8]
    model = from_pretrained(folder)
    expected = model.embed(records)
    np.testing.assert_allclose([vectors[r.id] for r in records], expected, atol=1e-5)

    answers = [
        "--k=2",
        "--missing",
        "--properties=accent color,care",
        f"--output={tmp_path / 'new'}",
    ]
    assert run_command("launch.predict", [*flags, *answers]) == 0
    rows = [json.loads(x) for file in (tmp_path / "new").glob("p*.jsonl") for x in file.open()]
    has = {product["id"]: dict(product["triples"]) for product in products}
    lacking = [(item, p) for item in has for p in ("accent color", "care") if p not in has[item]]
    assert [(row["id"], row["property"]) for row in rows] == lacking
    assert all(len(row["values"]) == 2 for row in rows)

    pairs = ["--pairs=nowhere.jsonl", "--task=alignment", f"--output={tmp_path / 'pairs'}"]
    for wrong, named in (
        (["launch.embed", *flags, f"--output={dump}"], "--output: .*not empty"),
        (["launch.predict", *flags, *answers, "--task=classification"], "head of the task"),
        (["launch.predict", *flags, *pairs], "head of the task alignment"),
        (["launch.predict", *flags, pairs[0], pairs[2]], "--pairs and --task=alignment"),
    ):
        assert run_command(wrong[0], wrong[1:]) == EXIT_USER_ERROR
        assert re.search(named, capsys.readouterr().err)
