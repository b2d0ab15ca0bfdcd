"""The scores and tables of a grid's report, from hand-made results."""

import json

import numpy as np
import pytest
from grid_results import DATA, LINES, SCORES, compare, line, view

from k3m_jax.sweeps.report import comparisons, naming, tables
from k3m_jax.sweeps.report.comparisons import GAIN, LEAD, LEAD_OVER_ALL
from k3m_jax.sweeps.report.scores import Condition, Score, Scores, read_scores


def rows(table):
    return {row.name: row.cells for row in table.rows}


def texts(table):
    return {row.name: cells for row, cells in table.cells()}


def means(row):
    return [cell and pytest.approx(cell.mean) for cell in row]


def test_a_score_is_a_mean_and_a_spread_over_seeds():
    score = SCORES.score(Condition(DATA, "classification", "k3m", "", ""), "accuracy")
    assert score.mean == pytest.approx(0.92)
    assert score.spread == pytest.approx(np.std([0.90, 0.92, 0.94], ddof=1))
    assert score.interval is None
    single = SCORES.score(Condition(DATA, "classification", "majority", "", ""), "accuracy")
    assert single.spread is None
    assert single.interval == pytest.approx((0.09, 0.19))


def test_differences_are_paired_by_seed():
    a, b = Score.over({0: 0.5, 1: 0.7, 2: 0.9}), Score.over({1: 0.6, 2: 0.9, 3: 0.0})
    assert a.minus(b).seeds == pytest.approx({1: 0.1, 2: 0.0})
    assert a.minus(b).spread == pytest.approx(np.std([0.1, 0.0], ddof=1))
    assert a.minus(Score.over({7: 0.1})) is None


def test_a_comparison_has_models_differences_and_trivial_baselines():
    table = compare()
    assert [column.name for column in table.columns] == ["0 %", "TNR100"]
    models = ["K3M", "ViLBERT", "ViLBERT+PKG", "LXMERT+PKG"]
    assert [row.name for row in table.rows] == [*models, LEAD, LEAD_OVER_ALL, GAIN, "majority"]
    found = rows(table)
    assert means(found["K3M"]) == [0.92, 0.65]  # without the null value
    # On K3M's seeds ViLBERT+PKG is best in both: 0.84, and 0.65 of seed 0.
    assert means(found[LEAD]) == [0.92 - 0.84, 0.60 - 0.65]
    assert found[LEAD][0].spread == pytest.approx(np.std([0.10, 0.08, 0.06], ddof=1))
    assert found[LEAD][1].seeds == pytest.approx({0: -0.05})
    assert [row.best for row in table.rows if row.name == "ViLBERT+PKG"] == [{0, 1}]
    # Of all baselines the plain one is best on clean items.
    assert means(found[LEAD_OVER_ALL]) == [0.92 - 0.91, 0.60 - 0.65]
    assert means(found[GAIN]) == [0.84 - 0.91, 0.82 - 0.2]
    assert means(found["majority"]) == [0.14, 0.14]
    assert "40 examples of 20 products" in table.note
    assert "± 5.0 points" in table.note


def test_cells_show_spread_interval_or_number_of_seeds():
    shown = texts(compare())
    assert shown["K3M"] == [("92.0 ± 2.0", ""), ("65.0 ± 7.1", "n=2")]
    assert shown[LEAD] == [("+8.0 ± 2.0", ""), ("−5.0", "n=1")]
    assert shown["majority"] == [("14.0", "9.0–19.0")] * 2
    shown = texts(compare([each for each in LINES if each["seed"] == 0]))
    assert shown["K3M"] == [("90.0", "85.0–95.0"), ("60.0", "55.0–65.0")]
    assert shown[LEAD] == [("+10.0", "n=1"), ("−5.0", "n=1")]


def test_sample_sizes_are_listed_by_seed_where_they_differ():
    sizes = {0: (1337, 47), 1: (308, 60), 2: (726, 50)}

    def measured(model, *seeds, missing=0):
        for seed in seeds:
            examples, products = sizes[seed]
            yield line(model, seed, 0.5, examples=examples - missing, products=products)

    ours, other = measured("k3m", 2, 0, 1), measured("vilbert_pkg", 1, missing=9)
    note = compare([*other, *ours, *measured("bert", 2)]).note
    assert note.startswith("1,337 / 308 / 726 examples of 47 / 60 / 50 products")
    elsewhere = [line("k3m", 0, 0.5, task="questions", examples=9999)]
    note = compare([*measured("k3m", 1), *measured("bert", 1), *elsewhere]).note
    assert note.startswith("308 examples of 60 products")


def test_notes_name_the_baselines_that_a_task_lacks():
    lines = [*LINES, *(line(m, 0, 0.5, task="long") for m in ("k3m", "vilbert_pkg", "lxmert_pkg"))]
    lines += [line(m, 0, 0.5, training="MNR50") for m in ("vilbert_pkg", "lxmert_pkg")]
    assert view(lines, "long").unmeasured_baselines() == ["vilbert"]
    assert compare(lines, "long").note.endswith("ViLBERT.")
    assert not compare(lines).note.endswith("ViLBERT.")
    assert comparisons.summary(Scores(lines), [DATA]).note.endswith(f"ViLBERT at {DATA}: long.")
    (table,) = comparisons.corrupted_training(Scores(lines), DATA)
    assert table.note.endswith("ViLBERT.")


def test_the_summary_leaves_out_what_is_missing():
    table = comparisons.summary(SCORES, [DATA])
    assert means(table.rows[0].cells) == [
        *(0.92, 0.08, None, -0.05),
        *(0.01, None, -0.05),
        *(-0.07, 0.62),
    ]


def test_text_only_models_are_baselines_without_equal_input():
    text = [line("bert_pkg", seed, 0.97) for seed in range(3)]
    table = compare([*LINES, *text])
    assert means(rows(table)[LEAD])[0] == 0.92 - 0.84
    assert means(rows(table)[LEAD_OVER_ALL])[0] == 0.92 - 0.97
    assert [row.name for row in table.rows if 0 in row.best] == ["ViLBERT+PKG"]
    gains = rows(compare([*LINES, *text, line("bert", 0, 0.1)]))[GAIN]
    assert means(gains) == [0.84 - 0.91, 0.82 - 0.2]


def test_ablations_are_compared_with_k3m_or_if_it_is_missing_with_one_another():
    values, differences = comparisons.ablations(SCORES, DATA)
    assert [column.name for column in values.columns] == ["accuracy, 0 %"]
    assert list(rows(values)) == ["K3M", "K3M, mean fusion", "majority"]
    (difference,) = rows(differences)["K3M, mean fusion"]
    assert difference.mean == pytest.approx(-0.02)
    assert difference.spread == pytest.approx(np.std([-0.02, -0.04, 0.0], ddof=1))
    assert comparisons.ablations(Scores(LINES[:6]), DATA) is None
    variants = [
        line(f"k3m_{name}", 0, value, task="wide") for name, value in (("a", 0.7), ("b", 1))
    ]
    lines = [*LINES, *variants, line("majority", 0, 0.14, task="wide")]
    assert list(rows(compare(lines, "wide"))) == ["k3m_a", "k3m_b", "majority"]
    values, _ = comparisons.ablations(Scores(lines), DATA)
    assert list(rows(values)) == ["K3M", "K3M, mean fusion", "majority"]
    assert not any("wide" in row.name for row in comparisons.summary(Scores(lines), [DATA]).rows)


def test_corrupted_training_is_compared_with_clean_training():
    (table,) = comparisons.corrupted_training(SCORES, DATA)
    assert means(rows(table)["K3M"]) == [0.95, 0.03]


def test_cost_is_relative_to_k3m():
    found = rows(tables.cost(SCORES, DATA))
    assert means(found["K3M"]) == [1200, 4e12, 11, 1]
    assert means(found["ViLBERT+PKG"]) == [1200, 3e12, 10, 0.75]


def test_coverage_counts_trials_of_what_has_begun():
    table, measured, expected = tables.coverage(SCORES, DATA)
    columns = [column.name for column in table.columns]
    assert columns == ["classification", "classification, MNR50", "pretraining"]
    found = rows(table)
    assert found["K3M"] == ("9 of 9", "3 of 3", "3 of 3")
    assert found["ViLBERT+PKG"] == ("5 of 9", None, "1 of 3")
    assert found["ViLBERT"] == ("6 of 9", None, None)
    assert found["K3M, mean fusion"] == ("3 of 3", None, None)
    assert measured == (9 + 3 + 3) + 6 + (5 + 1) + 6 + 3
    assert expected == (9 + 3 + 3) + (9 + 3) + 9 + 9 + 3


def test_coverage_of_a_finished_grid_is_complete():
    """Models and blocks of one seed by design lack nothing."""
    done = [line(model, seed, 0.5) for model in ("k3m", "vilbert") for seed in range(3)]
    done += [line("bert", 0, 0.5), line("k3m_mean", 0, 0.5), line("k3m_soft", 0, 0.5)]
    done += [line("k3m", 0, 0.5, "TMR100", training="TMR100")]
    assert tables.coverage(Scores(done), DATA)[1:] == (10, 10)
    done.append(line("k3m", 0, 0.5, "TMR100"))  # two more models have begun its seed
    assert tables.coverage(Scores(done), DATA)[1:] == (11, 13)


def test_names_have_an_order_and_unknown_ones_are_kept():
    given = ["KNR50", "TMR20", "TNR100", "TMR80", "", "IMR5"]
    assert naming.highest_rates(given) == ["", "TMR80", "IMR5", "TNR100", "KNR50"]
    given = ["nearest picture", "mine", "k3m_soft", "lxmert", "k3m"]
    ordered = naming.models_in_order(given)
    assert ordered == ["k3m", "lxmert", "mine", "k3m_soft", "nearest picture"]
    assert naming.model_name("mine") == "mine"


def test_the_last_line_of_a_trial_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line("k3m", 0, value)) + "\n" for value in (0.1, 0.7)))
    condition = Condition(DATA, "classification", "k3m", "", "")
    assert read_scores(path).score(condition, "accuracy").mean == 0.7
