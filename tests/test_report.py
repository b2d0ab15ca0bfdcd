import json

import numpy as np
import pytest
from PIL import Image

from k3m_jax.evaluation.curves import comparison_table, draw_comparison, draw_curves
from k3m_jax.evaluation.evaluator import EvalResult, PerItemMetric
from k3m_jax.evaluation.report import Report, metrics_of
from k3m_jax.settings import Corruption, Data


def answers(share, items=100, asked=2.0):
    right = np.zeros(items)
    right[: round(share * items)] = asked
    return PerItemMetric(right, np.full(items, asked))


WEIGHTS = {"mlm": 1.0, "mom": 1.0, "lpm": 1.0}
MODEL = {"mlm_accuracy": answers(0.6), "mlm_loss": answers(0.9), "link_mrr": answers(0.5, asked=1)}
FLOOR = {"mlm_accuracy": answers(0.1), "mlm_loss": answers(1), "link_mrr": answers(0.2, asked=1)}


@pytest.fixture
def report():
    return Report.of(EvalResult(MODEL, FLOOR, WEIGHTS, 3), 40, Data())


def test_every_metric_has_a_row_also_where_nothing_was_asked(report):
    lines = report.text().splitlines()
    row = next(line.split() for line in lines if line.startswith("MLM accuracy"))
    assert row[2:] == ["60.0", "%", "50.2", "%", "to", "69.1", "%", "10.0", "%", "200", "tokens"]
    assert next(line.split() for line in lines if line.startswith("MOM top-1")) == [
        "MOM", "top-1", "–", "–", "–", "0", "regions",
    ]  # fmt: skip
    assert "true value: 3." in report.text()
    header = next(i for i, line in enumerate(lines) if line.startswith("metric"))
    table = lines[header : header + 2 + len(metrics_of(WEIGHTS))]
    assert len({len(line) for line in table}) == 1


def test_markdown_has_the_same_cells(report):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in report.markdown().splitlines()
        if line.startswith("|")
    ]
    assert [tuple(row) for row in rows[2:]] == [row.cells() for row in report.rows]


def test_json_is_unrounded_and_strict(report):
    read = json.loads(json.dumps(report.json(), allow_nan=False))
    assert read["checkpoint"] == 40
    assert read["metrics"]["mlm_accuracy"]["value"] == MODEL["mlm_accuracy"].value
    assert read["metrics"]["mlm_loss"]["interval"] is None
    assert read["metrics"]["mom_top1"] == {
        "value": None, "interval": None, "floor": None, "questions": 0,
    }  # fmt: skip


def test_files_are_named_after_what_was_measured(report):
    corrupt = Data(valid_split="test", valid_corruption=Corruption("TNR", 0.8))
    assert report.name == "evaluation-valid"
    corrupt = Report.of(EvalResult(MODEL, FLOOR, WEIGHTS, 3), 40, corrupt)
    assert corrupt.name == "evaluation-test-TNR80"
    assert corrupt.json()["corruption"] == "TNR80"
    assert "Step 40 on the split test, TNR80:" in corrupt.text()


def test_json_comes_back(report):
    assert Report.of_json(json.loads(json.dumps(report.json()))) == report


def test_a_diverged_model_is_shown_not_hidden():
    broken = {
        "mlm_accuracy": answers(0.0),
        "mlm_loss": PerItemMetric(np.full(4, np.nan), np.ones(4)),
    }
    report = Report.of(EvalResult(broken, FLOOR, WEIGHTS, 0), 1, Data())
    assert "nan" in report.text()
    assert Report.of_json(report.json()).text() == report.text()
    assert (
        json.loads(json.dumps(report.json(), allow_nan=False))["metrics"]["mlm_loss"]["value"]
        is None
    )


def test_curves_of_any_run(tmp_path):
    training = [{"step": n, "train/loss": 5 / n, "train/mlm_loss": None} for n in range(1, 20)]
    held_out = [{"step": 10, "valid/loss": 1.0, "valid/floor/loss": 3.0, "valid/link_mrr": 0.4}]
    for name, lines in (("all", training + held_out), ("none", []), ("training", training)):
        draw_curves(lines, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 1000


def test_runs_beside_each_other(tmp_path):
    warm = [{"step": n, "train/loss": 5 / n, "valid/loss": 4 / n} for n in (1, 2)]
    cold = [{"step": 2, "valid/loss": 3.0, "valid/link_mrr": None}]
    draw_comparison({"warm": warm, "cold": cold}, tmp_path / "both.png")
    with Image.open(tmp_path / "both.png") as picture:
        assert picture.width > 1000
    assert comparison_table({"warm": warm, "cold": cold}).splitlines() == [
        "| metric | step | warm | cold |",
        "| --- | ---: | ---: | ---: |",
        "| held-out total loss | 1 | 4.000 | – |",
        "| held-out total loss | 2 | 2.000 | 3.000 |",
    ]
