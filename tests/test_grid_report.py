"""The report of a grid, from hand-made lines to what a person opens."""

import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from exported import write_run
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from PIL import Image

from k3m_jax.data.store.shards import open_shards
from k3m_jax.settings import UserError
from k3m_jax.sweeps.report import attention, comparisons, figures, naming
from k3m_jax.sweeps.report.comparisons import GAIN, LEAD, LEAD_ON_ALL, MetricView
from k3m_jax.sweeps.report.coverage import coverage
from k3m_jax.sweeps.report.scores import Place, Score, Scores, read_scores
from k3m_jax.sweeps.report.writing import write_report
from launch.cli import EXIT_USER_ERROR

DATA = "overlap 20 %"


def line(model, seed, value, corruption="", *, task="classification", metric="accuracy", **keys):
    interval = None if value is None else [value - 0.05, value + 0.05]
    content = {"data": DATA, "model": model, "seed": seed, "task": task, "training": ""}
    content |= {"corruption": corruption, "fingerprint": "f", "examples": 40, "products": 20}
    return content | {"metrics": {metric: {"value": value, "interval": interval}}, **keys}


def pretrained(model, seed, flops):
    cost = {"parameters": 1200, "flops": flops, "seconds": 10.0 + seed}
    return line(model, seed, 4.0, task="pretraining", metric="loss", **cost)


# Of TNR100, seed 1 of vilbert_pkg is missing and one of K3M's is no number.
LINES = [
    *(line("k3m", seed, value) for seed, value in enumerate((0.90, 0.92, 0.94))),
    *(line("k3m", seed, value, "TNR100") for seed, value in enumerate((0.60, 0.70, None))),
    *(line("k3m", seed, 0.8, "TNR50") for seed in range(3)),
    *(line("vilbert", seed, value) for seed, value in enumerate((0.95, 0.85, 0.93))),
    *(line("vilbert", seed, 0.2, "TNR100") for seed in range(3)),
    *(line("vilbert_pkg", seed, value) for seed, value in enumerate((0.80, 0.84, 0.88))),
    *(line("vilbert_pkg", seed, value, "TNR100") for seed, value in ((0, 0.65), (2, 0.99))),
    *(line("lxmert_pkg", seed, 0.5, c) for seed in range(3) for c in ("", "TNR100")),
    line("majority", 0, 0.14),
    line("majority", 0, 0.14, "TNR100"),
    *(line("k3m_mean", seed, value) for seed, value in enumerate((0.88, 0.88, 0.94))),
    *(line("k3m", seed, 0.95, training="MNR50") for seed in range(3)),
    *(pretrained("k3m", seed, 4e12) for seed in range(3)),
    pretrained("vilbert_pkg", 0, 3e12),
]  # fmt: skip


@pytest.fixture(scope="module")
def scores():
    return Scores(LINES)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A grid's folder with its report."""
    folder = tmp_path_factory.mktemp("grid")
    text = "".join(json.dumps(each) + "\n" for each in LINES)
    (folder / "results.jsonl").write_text(text + '{"data": "overl')
    write_report(folder, folder / "report", "test")
    return folder


@pytest.fixture
def canvases(monkeypatch):
    """What is drawn while a test runs, by the path of its PNG."""
    found, save = {}, Canvas.savefig

    def kept(canvas, path, **settings):
        found[str(path)] = canvas
        save(canvas, path, **settings)

    monkeypatch.setattr(Canvas, "savefig", kept)
    return found


def compared(lines, task="classification"):
    return comparisons.comparison(MetricView(Scores(lines), DATA, task, "accuracy"))


def rows(table):
    return {row.name: row.cells for row in table.rows}


def texts(table):
    return ((row.name, cells) for row, cells in table.cells())


def numbers(row):
    return [cell and pytest.approx(cell.mean) for cell in row]


def test_a_score_is_a_mean_and_a_spread_over_seeds(scores):
    score = scores.score(Place(DATA, "classification", "k3m", "", ""), "accuracy")
    assert score.mean == pytest.approx(0.92)
    assert score.spread == pytest.approx(np.std([0.90, 0.92, 0.94], ddof=1))
    assert score.interval is None
    alone = scores.score(Place(DATA, "classification", "majority", "", ""), "accuracy")
    assert alone.spread is None
    assert alone.interval == pytest.approx((0.09, 0.19))


def test_differences_are_paired_by_seed():
    a, b = Score.over({0: 0.5, 1: 0.7, 2: 0.9}), Score.over({1: 0.6, 2: 0.9, 3: 0.0})
    assert a.minus(b).seeds == pytest.approx({1: 0.1, 2: 0.0})
    assert a.minus(b).mean == pytest.approx(0.05)
    assert a.minus(b).spread == pytest.approx(np.std([0.1, 0.0], ddof=1))
    assert a.minus(Score.over({7: 0.1})) is None


def test_a_comparison_has_models_differences_and_floors(scores):
    table = comparisons.comparison(MetricView(scores, DATA, "classification", "accuracy"))
    assert [column.name for column in table.columns] == ["0 %", "TNR100"]
    names = ["K3M", "ViLBERT", "ViLBERT+PKG", "LXMERT+PKG", LEAD, LEAD_ON_ALL, GAIN, "majority"]
    assert [row.name for row in table.rows] == names
    found = rows(table)
    assert numbers(found["K3M"]) == [0.92, 0.65]  # the seed without a number is left out
    # By the seeds that K3M has, ViLBERT+PKG is best in both: 0.84, and 0.65 of seed 0.
    assert numbers(found[LEAD]) == [0.92 - 0.84, 0.60 - 0.65]
    assert found[LEAD][0].spread == pytest.approx(np.std([0.10, 0.08, 0.06], ddof=1))
    assert found[LEAD][1].seeds == pytest.approx({0: -0.05})
    assert [row.best for row in table.rows if row.name == "ViLBERT+PKG"] == [{0, 1}]
    # Of all baselines the plain one is best where nothing is corrupt.
    assert numbers(found[LEAD_ON_ALL]) == [0.92 - 0.91, 0.60 - 0.65]
    assert numbers(found[GAIN]) == [0.84 - 0.91, 0.82 - 0.2]
    assert numbers(found["majority"]) == [0.14, 0.14]
    assert "40 examples of 20 products" in table.note
    assert "± 5.0 points" in table.note


def test_cells_as_text(scores):
    table = comparisons.comparison(MetricView(scores, DATA, "classification", "accuracy"))
    told = dict(texts(table))
    assert told["K3M"] == [("92.0 ± 2.0", ""), ("65.0 ± 7.1", "n=2")]
    assert told[LEAD] == [("+8.0 ± 2.0", ""), ("−5.0", "n=1")]
    assert told["majority"] == [("14.0", "9.0–19.0")] * 2


def test_a_difference_of_one_seed_says_so_where_all_are_of_one():
    told = dict(texts(compared(line for line in LINES if line["seed"] == 0)))
    assert told["K3M"] == [("90.0", "85.0–95.0"), ("60.0", "55.0–65.0")]
    assert told[LEAD] == [("+10.0", "n=1"), ("−5.0", "n=1")]
    clean = [line(model, 0, 0.5) for model in ("k3m", "majority")]
    corrupt = [line(model, 0, 0.6, training="MNR50") for model in ("k3m", "majority")]
    (table,) = comparisons.spoilt_training(Scores(clean + corrupt), DATA)
    told = dict(texts(table))
    assert told["K3M"][1] == ("+10.0", "n=1")
    assert told["majority"][1] == ("+10.0", "")  # knows no chance


def test_sets_that_differ_by_seed_are_told_one_by_one():
    """A model that lacks a seed, or some items of one, makes up no set that never was."""
    sets = {0: (1337, 47), 1: (308, 60), 2: (726, 50)}

    def asked(model, *seeds, lacking=0):
        for seed in seeds:
            examples, products = sets[seed]
            yield line(model, seed, 0.5, examples=examples - lacking, products=products)

    ours, rival = asked("k3m", 2, 0, 1), asked("vilbert_pkg", 1, lacking=9)
    note = compared([*rival, *ours, *asked("bert", 2)]).note
    told = "1,337 / 308 / 726 examples of 47 / 60 / 50 products, seed by seed. The 95 %"
    assert note.startswith(told)
    elsewhere = [line("k3m", 0, 0.5, task="questions", examples=9999)]
    note = compared([*asked("k3m", 1), *asked("bert", 1), *elsewhere]).note
    assert note.startswith("308 examples of 60 products. The 95 %")


def test_baselines_that_were_not_measured_at_a_task_are_named():
    """What is called the best baseline there is the best of the others."""
    lines = [*LINES, *(line(m, 0, 0.5, task="long") for m in ("k3m", "vilbert_pkg", "lxmert_pkg"))]
    lines.append(line("k3m_mean", 0, 0.5, task="of a variant"))
    told = {task: compared(lines, task).note for task in ("long", "classification", "of a variant")}
    assert told["long"].endswith("The best is of those measured here: not ViLBERT.")
    assert "The best" not in told["classification"] + told["of a variant"]
    note = comparisons.summary(Scores(lines), [DATA]).note
    assert note.endswith(f"Not measured: ViLBERT at {DATA}: long.")
    assert "Not measured" not in comparisons.summary(Scores(LINES), [DATA]).note
    lines += [line(m, 0, 0.5, training="MNR50") for m in ("vilbert_pkg", "lxmert_pkg")]
    (table,) = comparisons.spoilt_training(Scores(lines), DATA)
    assert table.note.endswith("The best is of those measured here: not ViLBERT.")


def test_the_summary_leaves_open_what_is_missing(scores):
    table = comparisons.summary(scores, [DATA])
    assert numbers(table.rows[0].cells) == [
        *(0.92, 0.08, None, -0.05),
        *(0.01, None, -0.05),
        *(-0.07, 0.62),
    ]


def test_text_alone_is_no_rival_that_has_all_that_k3m_has_but_a_baseline():
    text = [line("bert_pkg", seed, 0.97) for seed in range(3)]
    measured = MetricView(Scores([*LINES, *text]), DATA, "classification", "accuracy")
    table = comparisons.comparison(measured)
    found = rows(table)
    assert numbers(found[LEAD])[0] == 0.92 - 0.84
    assert numbers(found[LEAD_ON_ALL])[0] == 0.92 - 0.97
    assert [row.name for row in table.rows if 0 in row.best] == ["ViLBERT+PKG"]
    with_plain = [*LINES, *text, line("bert", 0, 0.1)]
    gains = rows(
        comparisons.comparison(MetricView(Scores(with_plain), DATA, "classification", "accuracy"))
    )[GAIN]
    assert gains[0].seeds.keys() == {0, 1, 2}
    assert numbers(gains) == [0.84 - 0.91, 0.82 - 0.2]


def test_ablations_are_less_k3m_as_it_is(scores):
    values, costs = comparisons.ablations(scores, DATA)
    assert [column.name for column in values.columns] == ["accuracy, 0 %"]
    assert list(rows(values)) == ["K3M", "K3M, mean fusion", "majority"]
    (difference,) = rows(costs)["K3M, mean fusion"]
    assert difference.mean == pytest.approx(-0.02)
    assert difference.spread == pytest.approx(np.std([-0.02, -0.04, 0.0], ddof=1))
    assert comparisons.ablations(Scores(LINES[:6]), DATA) is None


def test_where_k3m_itself_is_not_measured_its_variants_are_compared():
    task = {"task": "wide classification"}
    variants = [line(f"k3m_{name}", 0, value, **task) for name, value in (("a", 0.7), ("b", 0.6))]
    scores = Scores([*LINES, *variants, line("majority", 0, 0.14, **task)])
    table = comparisons.comparison(MetricView(scores, DATA, task["task"], "accuracy"))
    assert list(rows(table)) == ["k3m_a", "k3m_b", "majority"]
    values, _ = comparisons.ablations(scores, DATA)
    assert list(rows(values)) == ["K3M", "K3M, mean fusion", "majority"]
    assert not any("wide" in row.name for row in comparisons.summary(scores, [DATA]).rows)


def test_corruption_in_training_is_set_against_none(scores):
    (table,) = comparisons.spoilt_training(scores, DATA)
    assert [column.name for column in table.columns] == ["0 %", "0 %, gained"]
    assert numbers(rows(table)["K3M"]) == [0.95, 0.03]


def test_cost_beside_k3m(scores):
    found = rows(comparisons.cost(scores, DATA))
    assert numbers(found["K3M"]) == [1200, 4e12, 11, 1]
    assert numbers(found["ViLBERT+PKG"]) == [1200, 3e12, 10, 0.75]


def test_coverage_counts_what_has_begun(scores):
    table, measured, wanted = coverage(scores, DATA)
    columns = [column.name for column in table.columns]
    assert columns == ["classification", "classification, MNR50", "pretraining"]
    found = rows(table)
    assert found["K3M"] == ("9 of 9", "3 of 3", "3 of 3")
    assert found["ViLBERT+PKG"] == ("5 of 9", None, "1 of 3")
    assert found["ViLBERT"] == ("6 of 9", None, None)
    assert found["K3M, mean fusion"] == ("3 of 3", None, None)
    assert measured == (9 + 3 + 3) + 6 + (5 + 1) + 6 + 3
    assert wanted == (9 + 3 + 3) + (9 + 3) + 9 + 9 + 3


def test_coverage_of_a_finished_grid_lacks_nothing():
    """What one seed alone is asked, of a model or of a part, is not missed with the others."""
    done = [line(model, seed, 0.5) for model in ("k3m", "vilbert") for seed in range(3)]
    done += [line("bert", 0, 0.5), line("k3m_mean", 0, 0.5), line("k3m_soft", 0, 0.5)]
    done += [line("k3m", 0, 0.5, "TMR100", training="TMR100")]
    _, measured, wanted = coverage(Scores(done), DATA)
    assert measured == wanted == 10
    _, measured, wanted = coverage(Scores([*done, line("k3m", 0, 0.5, "TMR100")]), DATA)
    assert (measured, wanted) == (11, 13)  # the other two that have begun the first seed lack it


def test_settings_stand_at_their_highest_rate_in_the_protocols_order():
    given = ["KNR50", "TMR20", "TNR100", "TMR80", "", "IMR5"]
    assert naming.most_of_each(given) == ["", "TMR80", "IMR5", "TNR100", "KNR50"]


def test_names_that_are_not_known_are_taken_as_they_come():
    given = ["nearest picture", "mine", "k3m_soft", "lxmert", "k3m"]
    ordered = naming.models_in_order(given)
    assert ordered == ["k3m", "lxmert", "mine", "k3m_soft", "nearest picture"]
    assert naming.called("mine") == "mine"


def test_the_last_line_of_a_cell_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line("k3m", 0, value)) + "\n" for value in (0.1, 0.7)))
    place = Place(DATA, "classification", "k3m", "", "")
    assert read_scores(path).score(place, "accuracy").mean == 0.7


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "there is no such file"),
        ("", "has no result"),
        ('{"data": "cut sh', "has no result"),
        (json.dumps(line("k3m", 0, 0.5)) + "\nnonsense\n", r"results.jsonl:2: .* no result"),
        ('{"data": "x"}\n', "results.jsonl:1:"),
        (json.dumps(line("k3m", 0, 0.5)).replace("0.5", '"high"'), "results.jsonl:1:"),
        (json.dumps(line("k3m", 0, 0.5, "XYZ5")), "results.jsonl:1:"),
    ],
)
def test_what_is_no_results_file_is_told(tmp_path, text, complaint):
    if text is not None:
        (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(UserError, match=complaint):
        write_report(tmp_path, tmp_path / "report", "test")
    assert not (tmp_path / "report").exists()


def test_the_json_has_everything_unrounded(written, scores):
    content = json.loads((written / "report" / "report.json").read_text())
    place = Place(DATA, "classification", "k3m", "", "")
    named = {**place._asdict(), "metric": "accuracy"}
    (found,) = [s for s in content["scores"] if named.items() <= s.items()]
    assert found == named | scores.score(place, "accuracy").json()
    assert found["n"] == 3
    assert found["seeds"] == {"0": 0.90, "1": 0.92, "2": 0.94}
    table = comparisons.comparison(MetricView(scores, DATA, "classification", "accuracy"))
    assert table.json() == next(t for t in content["tables"] if t["key"] == table.key)
    assert len({table["key"] for table in content["tables"]}) == len(content["tables"])


def test_markdown_has_tables_and_figures_that_exist(written):
    text = (written / "report" / "report.md").read_text()
    assert "| **K3M** | **92.0 ± 2.0** | **65.0 ± 7.1** (n=2) |" in text
    assert "| ViLBERT+PKG | *84.0 ± 4.0* |" in text
    assert "cut short, and left out: 1." in text
    assert "Left out: no pretrained K3M" in text
    figures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(figures) == 2  # against the rate, and of ablations
    for name in figures:
        png = (written / "report" / name).read_bytes()
        assert png.startswith(b"\x89PNG")
        assert (written / "report" / name).with_suffix(".svg").exists()
    assert "\n\n\n" not in text


def handles(canvas):
    """Of a figure's legend, by their labels."""
    (legend,) = canvas.legends
    labels = [text.get_text() for text in legend.get_texts()]
    return dict(zip(labels, legend.legend_handles, strict=True))


def test_no_line_is_drawn_where_only_its_ends_were_measured(scores, canvases, tmp_path):
    """Of TNR K3M was measured between them, too."""
    figures.draw_course(MetricView(scores, DATA, "classification", "accuracy"), tmp_path)
    canvas = canvases[f"{tmp_path / 'overlap-20-classification-accuracy'}.png"]
    (panel,) = canvas.axes
    drawn = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    course, ends, other = drawn["K3M"], drawn["ViLBERT"].lines[0], drawn["LXMERT+PKG"].lines[0]
    assert not course.is_dashed()
    assert list(course.get_xdata()) == [0, 50, 100]
    for each in (ends, other):
        assert each.is_dashed()
        assert each.get_linewidth() < 1 < course.get_linewidth()
    # Side by side, so that none hides another.
    assert ends.get_xdata() == pytest.approx([0, 100], abs=5)
    assert abs(np.subtract(ends.get_xdata(), other.get_xdata())).min() > 1
    assert len(panel.collections) == 1 + 2  # K3M's band, bars of ViLBERT and ViLBERT+PKG
    caption = " ".join(canvas.legends[0].get_title().get_text().split())
    assert caption == (
        "Filled: reads the triples; hollow, dashed: does not. Bands and bars: one standard "
        "deviation over seeds. Best floor: at each rate the best that needs no model. Thin dots "
        "only join two rates, between which nothing was measured."
    )


def test_a_caption_tells_of_what_is_drawn_alone(canvases, tmp_path):
    rates = ("", "TMR50", "TMR100")
    lines = [line(model, 0, 0.5, c) for model in ("k3m_mean", "vilbert") for c in rates]
    figures.draw_course(MetricView(Scores(lines), DATA, "classification", "accuracy"), tmp_path)
    canvas = next(iter(canvases.values()))
    caption = "Filled: reads the triples; hollow, dashed: does not."
    assert canvas.legends[0].get_title().get_text() == caption
    filled = {k: h.get_markerfacecolor() != "none" for k, h in handles(canvas).items()}
    assert filled == {"K3M, mean fusion": True, "ViLBERT": False}
    floors = [line("majority", 0, 0.5, c) for c in rates]  # as long as no model is measured
    assert figures.draw_course(
        MetricView(Scores(floors), DATA, "classification", "accuracy"), tmp_path
    )
    one_seed = comparisons.ablations(Scores([*LINES[:1], line("k3m_mean", 0, 0.5)]), DATA)[1]
    assert figures.draw_ablations(one_seed, tmp_path).note.endswith("One seed: no spread.")


def test_figures_can_be_read_in_a_column_of_text(canvases, tmp_path):
    """Of 900 pixels, where a picture that is wider is shown smaller."""
    models = [m for m in naming.MODELS if naming.is_compared(m)]
    lines = [line(m, s, 0.5 + s / 9, c) for m in models for s in (0, 1) for c in ("", "TMR100")]
    figures.draw_course(MetricView(Scores(lines), DATA, "classification", "accuracy"), tmp_path)
    draw_attention(tmp_path)
    for canvas in canvases.values():
        points = [text.get_fontsize() for text in canvas.findobj(Text) if text.get_text()]
        assert min(points) / 72 * 900 / canvas.get_figwidth() > 10  # pixels
        canvas.draw_without_rendering()
        box = canvas.legends[0].get_window_extent()
        assert 0 <= box.x0 < box.x1 <= canvas.bbox.width


def draw_attention(folder):
    photo = io.BytesIO()
    Image.new("RGB", (32, 32)).save(photo, "JPEG")
    weights = np.array([[0.7, 0.2, 0.1]])
    seen = [attention.Seen("a thing", photo.getvalue(), ("a: b", "c: d", "e: f"), weights)] * 3
    return attention.draw_attention(seen, folder / "attention", "Of a run.")


def test_the_weights_of_triples_have_a_unit(canvases, tmp_path):
    draw_attention(tmp_path)
    canvas = canvases[f"{tmp_path / 'attention'}.png"]
    shown = [axis for axis in canvas.axes if axis.axison and axis.get_xlabel()]
    assert [axis.get_xlabel() for axis in shown] == ["weight (%)"] * 3
    (alike,) = shown[0].lines
    assert alike.get_xdata() == pytest.approx([100 / 3] * 2)
    assert list(handles(canvas)) == ["where all triples would weigh the same"]


def test_items_whose_attention_is_shown_are_of_several_products():
    told = {"title": "a thing", "picture": b"jpeg", "values": list("abcd")}
    items = [{**told, "id": str(i), "product": str(i // 2)} for i in range(40)]
    items += [{**told, "id": "x", "product": "x", "picture": b""}] * 40
    chosen = attention.chosen(items)
    assert len(chosen) == len({item["product"] for item in chosen})
    assert 1 < len(chosen) <= attention.PRODUCTS
    assert attention.chosen(items[40:]) == []


@pytest.mark.slow
def test_the_attention_of_a_run_that_lies_there_is_drawn(tmp_path):
    run = tmp_path / "runs" / "overlap" / "k3m" / "seed0" / "pretraining"
    write_run(run, tmp_path)
    seen = attention.attended(run, "train")
    source = open_shards(str(tmp_path / "shards")).source("train")
    items = {item["title"]: item for item in source}
    assert len(seen) == attention.PRODUCTS
    for each in seen:
        item = items[each.title]
        told = [": ".join(pair) for pair in zip(item["properties"], item["values"], strict=True)]
        assert [x.replace(" ", "") for x in each.triples] == [
            x.lower().replace(" ", "") for x in told[: len(each.triples)]
        ]
        assert len(each.triples) >= 2
        np.testing.assert_allclose(each.weights.sum(1), 1, rtol=1e-5)
    (tmp_path / "results.jsonl").write_text(json.dumps(line("k3m", 0, 0.5)))
    for split, told in (("train", "runs/overlap/k3m/seed0"), ("nowhere", "no split 'nowhere'")):
        write_report(tmp_path, tmp_path / split, split)
        assert told in (tmp_path / split / "report.md").read_text()
        drawn = split == "train"
        assert (tmp_path / split / "figures" / "attention.png").exists() == drawn
        page = (tmp_path / split / "index.html").read_text()
        assert ("data:image/png;base64," in page) == drawn


class Loads(html.parser.HTMLParser):
    """What a page would fetch, and tags that are open at its end."""

    VOID = ("meta", "img", "path", "use", "br")

    def __init__(self, text):
        super().__init__()
        self.fetched, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "srcset") and tag != "a":
                self.fetched.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else(written):
    text = (written / "report" / "index.html").read_text()
    page = Loads(text)
    assert page.open == []
    assert page.fetched
    assert all(each.startswith(("#", "data:")) for each in page.fetched)
    assert "@import" not in text
    assert "<script" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert text.count("<svg ") == 2
    own = re.sub(r"<svg .*?</svg>", "", text, flags=re.DOTALL)
    names = re.findall(r' id="(.*?)"', own)
    assert len(names) == len(set(names))
    for link in re.findall(r'<a href="#(.*?)"', text):
        assert f'id="{link}"' in text


def test_the_same_results_make_the_same_files(written, tmp_path):
    write_report(written, tmp_path, "test")
    for path in tmp_path.rglob("*.*"):
        same = written / "report" / path.relative_to(tmp_path)
        assert path.read_bytes() == same.read_bytes(), path.name


@pytest.mark.slow
def test_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, "-m", "launch.report", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == EXIT_USER_ERROR
    assert len(done.stderr.splitlines()) == 1
    assert "results.jsonl: there is no such file" in done.stderr


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *names))), None)
    return found or pytest.skip("no Chromium: install one, or name it in $CHROMIUM")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (500, True)])
def test_a_browser_shows_the_page(written, tmp_path, width, dark):
    shot = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--window-size={width},1500", f"--screenshot={shot}", f"--user-data-dir={tmp_path}"]
    flags += ["--blink-settings=preferredColorScheme=0"] * dark
    page = (written / "report" / "index.html").as_uri()
    subprocess.run([chromium(), *flags, page], check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (1500, width)
    paper = np.bincount(pixels.ravel()).argmax()
    assert (paper < 60) if dark else (paper > 240)
    # Something is written all the way down.
    assert (np.abs(pixels.astype(int) - paper).max(1).reshape(10, 150).max(1) > 100).all()
