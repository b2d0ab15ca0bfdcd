"""Functions as artefacts: used by a process that has never heard of k3m_jax."""

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from exported import every_pattern, export, tiny_model
from jax import export as jax_export
from products import jpeg, tokenizer
from safetensors.numpy import load_file
from tiny import TINY

from k3m_jax.modalities.knowledge import candidates
from k3m_jax.serving import from_pretrained, model_card
from k3m_jax.serving.folder import WEIGHTS
from k3m_jax.serving.functions import PLATFORMS

pytestmark = pytest.mark.slow

# The same operations on the same numbers, but the compiler may fuse them otherwise: float32 keeps
# about 7 digits, bfloat16 two to three, of embeddings that are about 1.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
TRIPLES = [("colour", "red"), ("fibre", "wool"), ("brand", "velti")]

AFTERWARDS = """
import sys
with open("link_scores.jax_export", "rb") as file:
    link_scores = jax.jit(export.deserialize(file.read()).call)
triples = dict(np.load("triples.npz"))
np.savez("seen.npz", vectors=vectors, scores=link_scores(weights, vectors, triples))
here = {name.split(".")[0] for name in sys.modules}
print(sorted(here & {"k3m_jax", "flax", "optax", "orbax", "grain", "transformers", "absl"}))
"""


MISSING = ("picture", "title", "triples")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    network = tiny_model()
    data = model_card.DataSet("f" * 64, "shop", {"train": 8}, dict.fromkeys(MISSING, 1))
    facts = model_card.Facts(network.settings, 3, 1000, (data,), {"jax": "1"}, None, ())
    card = model_card.write(facts, network, PLATFORMS)
    return export(tmp_path_factory.mktemp("export") / "model", network, PLATFORMS, card)


def test_the_lines_of_the_model_card_in_a_fresh_process(folder):
    (folder / "dress.jpg").write_bytes(jpeg(5, size=20))
    texts = candidates(TRIPLES, tokenizer(), TINY.lengths.candidate)
    np.savez(folder / "triples.npz", **vars(texts))
    card = (folder / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", lines + AFTERWARDS],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    seen = np.load(folder / "seen.npz")

    model = from_pretrained(folder)
    picture = (folder / "dress.jpg").read_bytes()
    record = model.record("1", title="red dress", triples=[("colour", "red")], picture=picture)
    vectors = model.embed([record])
    assert seen["vectors"].dtype == np.float32
    np.testing.assert_allclose(seen["vectors"], vectors, atol=TOLERANCE["float32"])
    scores = model.link_scores(vectors, TRIPLES)
    np.testing.assert_allclose(seen["scores"], scores, atol=TOLERANCE["float32"])


@pytest.mark.parametrize(
    ("dtype", "front_end", "preset"),
    [
        ("float32", "regions", "paper"),
        ("bfloat16", "patches", "paper"),
        ("float32", "patches", "release"),
    ],
)
def test_the_same_numbers_for_another_number_of_rows(tmp_path, dtype, front_end, preset):
    network = tiny_model(dtype, front_end, preset)
    folder = export(tmp_path / "model", network, ("cpu",))
    model = from_pretrained(folder)
    records = every_pattern(front_end)
    expected = model.embed(records)
    artefact = jax_export.deserialize(bytearray((folder / "embed.jax_export").read_bytes()))
    weights = load_file(folder / WEIGHTS)
    assert {x.dtype for x in weights.values()} == {np.dtype(np.float32)}
    embed = jax.jit(artefact.call)
    seen = embed(weights, model._arrays(records[3:], rows=5))
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, expected[3:], atol=TOLERANCE[dtype])


def test_every_platform_is_there_and_no_path_of_this_machine(folder):
    for name in ("embed", "link_scores"):
        data = (folder / f"{name}.jax_export").read_bytes()
        artefact = jax_export.deserialize(data)
        assert artefact.platforms == PLATFORMS
        assert len(data) < 150_000  # the weights are not in it
        assert not re.search(rb"[\w/.-]*\.py", data)
