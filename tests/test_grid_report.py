"""The figures and files of a grid's report, from hand-made results."""

import html.parser
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from exported import write_run
from grid_results import DATA, LINES, SCORES, compare, line, view
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from PIL import Image

from k3m_jax.data.store.shards import open_shards
from k3m_jax.settings import UserError
from k3m_jax.sweeps.report import attention, figures, naming
from k3m_jax.sweeps.report.scores import Condition
from k3m_jax.sweeps.report.writing import write_report


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
    """The figures drawn during a test, by the path of their PNG."""
    found, save = {}, Canvas.savefig

    def kept(canvas, path, **settings):
        found[str(path)] = canvas
        save(canvas, path, **settings)

    monkeypatch.setattr(Canvas, "savefig", kept)
    return found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "results.jsonl"),
        ("", "has no result"),
        ('{"data": "cut sh', "has no result"),
        (json.dumps(line("k3m", 0, 0.5)) + "\nnonsense\n", "results.jsonl:2:"),
        ('{"data": "x"}\n', "results.jsonl:1:"),
        (json.dumps(line("k3m", 0, 0.5)).replace("0.5", '"high"'), "results.jsonl:1:"),
        (json.dumps(line("k3m", 0, 0.5, "XYZ5")), "results.jsonl:1:"),
    ],
)
def test_an_invalid_results_file_is_an_error(tmp_path, text, message):
    if text is not None:
        (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path, tmp_path / "report", "test")
    assert not (tmp_path / "report").exists()


def test_the_json_has_everything_unrounded(written):
    content = json.loads((written / "report" / "report.json").read_text())
    condition = Condition(DATA, "classification", "k3m", "", "")
    named = {**condition._asdict(), "metric": "accuracy"}
    (found,) = [s for s in content["scores"] if named.items() <= s.items()]
    assert found == named | SCORES.score(condition, "accuracy").json()
    assert found["seeds"] == {"0": 0.90, "1": 0.92, "2": 0.94}
    table = compare()
    assert table.json() == next(t for t in content["tables"] if t["key"] == table.key)
    assert len({table["key"] for table in content["tables"]}) == len(content["tables"])


def test_markdown_has_tables_and_figures_that_exist(written):
    text = (written / "report" / "report.md").read_text()
    assert "| **K3M** | **92.0 ± 2.0** | **65.0 ± 7.1** (n=2) |" in text
    assert "| ViLBERT+PKG | *84.0 ± 4.0* |" in text
    assert "left out: 1." in text  # the truncated line
    names = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(names) == 2  # against the rate, and of ablations
    for name in names:
        assert (written / "report" / name).read_bytes().startswith(b"\x89PNG")
        assert (written / "report" / name).with_suffix(".svg").exists()
    assert "\n\n\n" not in text


def test_two_rates_are_joined_by_thin_dots_and_more_by_a_curve(canvases, tmp_path):
    """Of TNR only K3M was measured in between."""
    figures.draw_rate_curves(view(), tmp_path)
    (canvas,) = {id(canvas): canvas for canvas in canvases.values()}.values()
    (panel,) = canvas.axes
    drawn = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    curve, ends, other = drawn["K3M"], drawn["ViLBERT"].lines[0], drawn["LXMERT+PKG"].lines[0]
    assert not curve.is_dashed()
    assert list(curve.get_xdata()) == [0, 50, 100]
    for each in (ends, other):
        assert each.is_dashed()
        assert each.get_linewidth() < 1 < curve.get_linewidth()
    # Next to each other, so that neither hides the other.
    assert ends.get_xdata() == pytest.approx([0, 100], abs=5)
    assert abs(np.subtract(ends.get_xdata(), other.get_xdata())).min() > 1
    assert len(panel.collections) == 1 + 2  # K3M's band, bars of ViLBERT and ViLBERT+PKG


def test_figures_are_legible_in_a_column_of_text(canvases, tmp_path):
    """Of 900 pixels, where a wider picture is shrunk."""
    models = [m for m in naming.MODELS if naming.is_main_model(m)] + ["majority"]
    lines = [line(m, s, 0.5 + s / 9, c) for m in models for s in (0, 1) for c in ("", "TMR100")]
    figures.draw_rate_curves(view(lines), tmp_path)
    photo = io.BytesIO()
    Image.new("RGB", (32, 32)).save(photo, "JPEG")
    weights, triples = np.array([[0.7, 0.2, 0.1]]), ("a: b", "c: d", "e: f")
    items = [attention.AttendedItem("a thing", photo.getvalue(), triples, weights)] * 3
    attention.draw_attention(items, tmp_path / "attention", "Of a run.")
    for canvas in canvases.values():
        points = [text.get_fontsize() for text in canvas.findobj(Text) if text.get_text()]
        assert min(points) / 72 * 900 / canvas.get_figwidth() > 10  # pixels
        canvas.draw_without_rendering()
        box = canvas.legends[0].get_window_extent()
        assert 0 <= box.x0 < box.x1 <= canvas.bbox.width


@pytest.mark.slow
def test_attention_of_a_run_is_drawn(tmp_path):
    run = tmp_path / "runs" / "overlap" / "k3m" / "seed0" / "pretraining"
    write_run(run, tmp_path)
    found = attention.read_attention(run, "train")
    assert len(found) == len({item.picture for item in found}) == attention.PRODUCTS
    for item in found:
        assert len(item.triples) >= 2
        np.testing.assert_allclose(item.weights.sum(1), 1, rtol=1e-5)
    (tmp_path / "results.jsonl").write_text(json.dumps(line("k3m", 0, 0.5)))
    for split, drawn in (("train", True), ("nowhere", False)):
        write_report(tmp_path, tmp_path / split, split)
        assert (tmp_path / split / "figures" / "attention.png").exists() == drawn
        page = (tmp_path / split / "index.html").read_text()
        assert ("data:image/png;base64," in page) == drawn
    records = attention.choose_records(open_shards(str(tmp_path / "shards")).source("train"))
    assert len(attention.choose_records(records[:1] * 40)) == 1  # one item per product


class Loads(html.parser.HTMLParser):
    """URLs that a page would fetch, and tags that are open at its end."""

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


def test_the_page_loads_nothing_and_its_links_lead_somewhere(written):
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


@pytest.mark.long
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (500, True)])
def test_a_browser_shows_the_page(written, tmp_path, width, dark):
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if not browser:
        pytest.skip("no Chromium: install one, or name it in $CHROMIUM")
    shot = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--window-size={width},1500", f"--screenshot={shot}", f"--user-data-dir={tmp_path}"]
    flags += ["--blink-settings=preferredColorScheme=0"] * dark
    page = (written / "report" / "index.html").as_uri()
    subprocess.run([browser, *flags, page], check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (1500, width)
    paper = np.bincount(pixels.ravel()).argmax()
    assert (paper < 60) if dark else (paper > 240)
    # Something is written all the way down.
    assert (np.abs(pixels.astype(int) - paper).max(1).reshape(10, 150).max(1) > 100).all()
