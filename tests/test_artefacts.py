"""Functions as artefacts, used by a process that does not import k3m_jax."""

import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from exported import every_pattern, export, tiny_folder, tiny_model
from jax import export as jax_export
from products import jpeg, tokenizer
from safetensors.numpy import load_file
from tiny import TINY

from k3m_jax.modalities.knowledge import CandidateTexts
from k3m_jax.pretrained.weights_file import WEIGHTS
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.export import PLATFORMS

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


def test_the_lines_of_the_model_card_in_a_fresh_process(tmp_path):
    folder = shutil.copytree(tiny_folder(), tmp_path / "model")
    (folder / "dress.jpg").write_bytes(jpeg(5, size=20))
    texts = CandidateTexts.write(TRIPLES, tokenizer(), TINY.lengths.candidate)
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
        pytest.param("float32", "patches", "release", marks=pytest.mark.long),
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
    seen = jax.jit(artefact.call)(weights, model.arrays(records[3:], rows=5))
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, expected[3:], atol=TOLERANCE[dtype])


@pytest.mark.long
def test_every_platform_is_there_and_no_path_of_this_machine(tmp_path):
    folder = export(tmp_path / "model", tiny_model(), PLATFORMS)
    for name in ("embed", "link_scores"):
        data = (folder / f"{name}.jax_export").read_bytes()
        artefact = jax_export.deserialize(data)
        assert artefact.platforms == PLATFORMS
        assert len(data) < 150_000  # the weights are not in it
        assert not re.search(rb"[\w/.-]*\.py", data)
