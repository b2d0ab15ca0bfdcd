"""The `release` preset in a real run, from a released checkpoint and back into one."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from products import (
    NO_PICTURE,
    having,
    inputs,
    memory_shards,
    products,
    record,
    settings_for,
    tokenizer,
)
from safetensors.numpy import save_file
from tiny import released

from k3m_jax.data.input.pipeline import train_batches
from k3m_jax.evaluation.evaluator import Evaluator
from k3m_jax.model.network import Network, flat, nested
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.pretrained.importing import import_weights
from k3m_jax.pretrained.weights_file import WEIGHTS, read_weights
from k3m_jax.reproductions.release.weights import RELEASE
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.export import export_run
from k3m_jax.settings import Evaluation, Mesh, Training
from k3m_jax.training.checkpoints import Checkpoints, Meta, load_params
from k3m_jax.training.loop import train
from k3m_jax.training.progress import METRICS, read_metrics
from k3m_jax.training.trainer import Trainer

STEPS = 2


def _config(settings):
    """The `config.json` that belongs to a state dict of these settings."""
    model, inter = settings.model, settings.model.interactor
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    return {
        "vocab_size": model.vocabulary,
        "max_position_embeddings": model.positions,
        **dict(zip(sizes, dataclasses.astuple(model.text), strict=True)),
        **{f"v_{k}": v for k, v in zip(sizes, dataclasses.astuple(model.image), strict=True)},
        "bi_hidden_size": inter.width,
        "bi_num_attention_heads": inter.heads,
        "t_biattention_id": inter.text_layers,
        "v_biattention_id": inter.image_layers,
    }


def tensors(params):
    return {n: np.ascontiguousarray(x) for n, x in RELEASE.views(nested(params)).items()}


@pytest.mark.slow
def test_a_released_checkpoint_is_imported_trained_evaluated_written_and_imported_again(tmp_path):
    # Some without picture, without triples and with more triples than ten among them.
    records = products(20)
    for number in (3, 5):
        records[number] = having(records[number], image=NO_PICTURE)
    records[7], records[11] = having(records[7], knowledge=()), having(records[11], title="")
    records[9] = record(9, [("colour", str(i)) for i in range(40)])
    given = inputs(memory_shards(records, products(6, first=100)))
    settings = released(
        settings_for(
            given,
            training=Training(steps=STEPS, batch=16, log_every=1, eval_every=0),
            evaluation=Evaluation(batch=16),
            mesh=Mesh(data=1),
        )
    )
    network = Network(settings)

    rng = np.random.default_rng(0)
    params = {
        name: rng.normal(scale=0.1, size=x.shape).astype(np.float32)
        for name, x in network.abstract_params().items()
    }
    release = tmp_path / "release"
    release.mkdir()
    save_file(tensors(params), release / "model.safetensors")
    (release / "config.json").write_text(json.dumps(_config(settings)))
    imported = import_weights("k3m", release, tmp_path / "weights", settings, tokenizer())
    assert flat(imported.params).keys() == params.keys()

    settings = dataclasses.replace(settings, init_from=str(tmp_path / "weights"))
    network, mesh = Network(settings), make_mesh(settings.mesh)
    evaluator, run = Evaluator(network, mesh, given), tmp_path / "run"
    meta = Meta.of(settings, ["data"], tokenizer().fingerprint)
    checkpoints = Checkpoints(run, meta, keep=1)
    finished = train(
        Trainer(network, mesh),
        checkpoints,
        lambda step: train_batches(settings, given, start_step=step),
        evaluator,
        run,
        tokenizer(),
    )
    checkpoints.close()
    assert finished

    lines = read_metrics(run / METRICS)
    tasks = ("mlm", "mom", "mvm", "structure")
    for prefix in ("train", "valid"):
        values = {k: v for line in lines for k, v in line.items() if k.startswith(prefix)}
        total = sum(values[f"{prefix}/{task}_loss"] for task in tasks)
        np.testing.assert_allclose(values[f"{prefix}/loss"], total, rtol=1e-5)
        assert 0 < total < 100
    assert lines[0]["train/match_loss"] > 0  # next to the total, not in it
    assert lines[-1]["valid/floor/structure_loss"] == pytest.approx(np.log(2))

    trained, step = load_params(run, "latest", network, mesh)
    assert step == STEPS
    trained = flat(jax.device_get(trained))
    still = {name for name, x in trained.items() if np.array_equal(x, params[name])}
    # No loss sees a bias of all scores of a softmax, and the head of `loss_match` is in no total;
    # what it has of weight decay moves its kernel.
    unseen = {name for name in params if name.endswith("key/bias")}
    assert "match_head/bias" in still
    assert still <= unseen | {"match_head/bias", "structure/w2_bias"}

    exported = tmp_path / "exported"
    words = str(tmp_path / "weights")
    export_run(run, exported, which="latest", platforms=(), tokenizer=words)
    weights, _ = read_weights(exported / WEIGHTS)
    path = release / "model.safetensors"
    save_file(tensors(weights), path)
    back = flat(import_weights("k3m", release, tmp_path / "back", settings, None).params)
    assert back.keys() == weights.keys() == trained.keys()
    for name, array in trained.items():
        assert back[name].tobytes() == weights[name].tobytes() == array.tobytes(), name
    assert from_pretrained(exported).network.settings.model == settings.model

    report = evaluator.report(nested(trained), step)
    assert [row.metric for row in report.rows if row.metric.startswith(("lpm", "link"))] == []
    assert {row.metric for row in report.rows} >= {"mvm_accuracy", "structure_loss"}
