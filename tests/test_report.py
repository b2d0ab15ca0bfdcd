import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from k3m_jax.evaluation.curves import comparison_table, draw_curves
from k3m_jax.evaluation.evaluator import Evaluator
from k3m_jax.evaluation.report import ExternalDataInfo
from k3m_jax.model.network import Network
from k3m_jax.objectives import active
from k3m_jax.objectives.base import Sum
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Corruption, Data, Mesh
from tests.tiny import TINY, tiny_settings


def metric(share, items=100, targets=2.0):
    right = np.zeros(items)
    right[: round(share * items)] = targets
    return Sum(right, np.full(items, targets))


MODEL = {"mlm_accuracy": metric(0.6), "mlm_loss": metric(0.9), "link_mrr": metric(0.5, targets=1)}
FLOOR = {"mlm_accuracy": metric(0.1), "mlm_loss": metric(1), "link_mrr": metric(0.2, targets=1)}


def report_of(model, skipped=0, **data):
    network = Network(tiny_settings(data=Data(**data)))
    evaluator = Evaluator(network, make_mesh(Mesh(data=1)), None)
    evaluator.measure = lambda params: (model, FLOOR, skipped)
    return evaluator.report(None, 40)


@pytest.fixture
def report():
    return report_of(MODEL, 3)


def test_every_metric_has_a_row_also_without_targets(report):
    lines = report.text().splitlines()
    row = next(line.split() for line in lines if line.startswith("MLM accuracy"))
    assert row[2:] == ["60.0", "%", "(50.2", "to", "69.1)", "10.0", "%", "200", "tokens"]
    row = next(line.split() for line in lines if line.startswith("MOM top-1"))
    assert row == ["MOM", "top-1", "–", "–", "0", "regions"]
    header = next(i for i, line in enumerate(lines) if line.startswith("metric"))
    reported = [name for objective in active(TINY) for name in objective.reported]
    table = lines[header : header + 2 + len(reported)]
    assert len({len(line) for line in table}) == 1
    rates = [row.is_rate for row in report.rows]
    assert rates == sorted(rates, reverse=True)


def test_markdown_has_the_same_cells(report):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in report.markdown().splitlines()
        if line.startswith("|")
    ]
    aligned = report.text().splitlines()[4 : 4 + len(report.rows)]
    assert rows[2:] == [re.split(r" {2,}", line.strip()) for line in aligned]


def test_json_is_unrounded_and_strict(report):
    broken = MODEL | {"mlm_loss": Sum(np.full(4, np.nan), np.ones(4))}
    assert "nan" in report_of(broken).text()
    external = ExternalDataInfo(("raw",), "abcd", 3, {"title": 1})
    diverged = dataclasses.replace(report_of(broken), external=external)
    for each in (report, diverged):
        read = json.loads(json.dumps(each.json(), allow_nan=False))
        assert (read["kind"], read["checkpoint"]) == ("evaluation", 40)
        accuracy, top1 = read["metrics"]["mlm_accuracy"], read["metrics"]["mom_top1"]
        assert accuracy["value"] == 0.6
        assert accuracy["baselines"]["floor"] == {"value": 0.1, "interval": None}
        assert (top1["value"], top1["targets"]) == (None, 0)
        assert read["metrics"]["mlm_loss"]["interval"] is None
    assert read["metrics"]["mlm_loss"]["value"] == "nan"
    assert (read["external"]["sources"], read["external"]["missing"]) == (["raw"], {"title": 1})


def test_files_are_named_after_what_was_measured(report):
    assert report.name == "evaluation-valid"
    corrupt = report_of(MODEL, valid_split="test", valid_corruption=Corruption("TNR", 0.8))
    assert corrupt.name == "evaluation-test-TNR80"
    other = dataclasses.replace(
        corrupt, kind="probe", task="questions", external=ExternalDataInfo(("raw",), "abcd")
    )
    assert other.name == "probe-questions-test-TNR80-abcd"


def test_curves_of_any_runs(tmp_path):
    training = [{"step": n, "train/loss": 5 / n, "train/mlm_loss": None} for n in range(1, 20)]
    held_out = [{"step": 10, "valid/loss": 1.0, "valid/floor/loss": 3.0, "valid/link_mrr": 0.4}]
    for runs in (
        {"": training + held_out},
        {"": []},
        {"": training},
        {"warm": training + held_out, "cold": training},
    ):
        draw_curves(runs, tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.width > 1000


def test_runs_are_compared():
    warm = [{"step": n, "train/loss": 5 / n, "valid/loss": 4 / n} for n in (1, 2)]
    cold = [{"step": 2, "valid/loss": 3.0, "valid/link_mrr": None}]
    assert comparison_table({"warm": warm, "cold": cold}).splitlines() == [
        "| metric | step | warm | cold |",
        "| --- | ---: | ---: | ---: |",
        "| held-out total loss | 1 | 4.000 | – |",
        "| held-out total loss | 2 | 2.000 | 3.000 |",
    ]
