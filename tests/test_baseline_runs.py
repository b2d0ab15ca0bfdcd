"""Baselines in a real run: trained, saved, evaluated, reported."""

import pytest
from products import NO_PICTURE, having, inputs, memory_shards, products, settings_for, tokenizer
from tiny import baseline

from k3m_jax.data.input.pipeline import train_batches
from k3m_jax.evaluation.evaluator import Evaluator
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.serving.export import export_run
from k3m_jax.settings import Evaluation, Mesh, Training, UserError
from k3m_jax.training.checkpoints import Checkpoints, Meta, load_params
from k3m_jax.training.loop import train
from k3m_jax.training.progress import METRICS, read_metrics
from k3m_jax.training.trainer import Trainer

STEPS = 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "knowledge_text", "metrics"),
    [
        ("bert", True, ["mlm_accuracy", "mlm_loss"]),
        ("lxmert", False, ["mlm_accuracy", "mom_top1", "mlm_loss", "mom_loss"]),
    ],
)
def test_a_run_from_its_first_step_to_its_report(preset, knowledge_text, metrics, tmp_path):
    records = products(20)
    for number in (3, 5):
        records[number] = having(records[number], image=NO_PICTURE)
    records[7], records[9] = having(records[7], knowledge=()), having(records[9], title="")
    given = inputs(memory_shards(records, products(6, first=100)))
    settings = settings_for(
        given,
        model=baseline(preset, knowledge_text=knowledge_text).model,
        training=Training(steps=STEPS, batch=16, log_every=1, eval_every=0),
        evaluation=Evaluation(batch=16),
        mesh=Mesh(data=1),
    )
    network, mesh = Network(settings), make_mesh(settings.mesh)
    evaluator = Evaluator(network, mesh, given)
    meta = Meta.of(settings, ["memory"], tokenizer().fingerprint)
    checkpoints = Checkpoints(tmp_path / "run", meta, keep=1)
    assert train(
        Trainer(network, mesh),
        checkpoints,
        lambda step: train_batches(settings, given, start_step=step),
        evaluator,
        tmp_path / "run",
        given.tokenizer,
    )
    checkpoints.close()
    lines = read_metrics(tmp_path / "run" / METRICS)
    seen = {name for line in lines for name in line}
    assert ("train/picture_share" in seen) == (preset != "bert")
    assert not any("lpm" in name or "link" in name for name in seen if "targets" not in name)

    params, step = load_params(tmp_path / "run", "latest", network, mesh)
    report = evaluator.report(params, step)
    assert [row.metric for row in report.rows] == metrics
    assert all(row.targets and row.baselines["floor"].value is not None for row in report.rows)

    with pytest.raises(UserError, match=f"model.preset '{preset}'"):
        export_run(tmp_path / "run", tmp_path / "out", which="latest", platforms=("cpu",))
