"""What a grid holds, in which order, and what its file of results says is done."""

import json

import pytest
from conftest import ROOT

from configs import finetune_classification, grid_real_products, quickstart
from configs.grid_catalogue import ABLATIONS, BASELINES, SETTINGS, get_config
from k3m_jax.settings import UserError
from k3m_jax.sweeps import results
from k3m_jax.sweeps.grid import PRETRAINING, Grid, RunGroup, Trial
from k3m_jax.tasks.trivial_baselines import BASELINES as TRIVIAL_BASELINES

FIRST = Trial("shop", "a", 0, PRETRAINING, "", "")


def small(**changes):
    config = get_config()
    config.split, config.seeds = "test", (0, 1)
    config.data = {"shop": {"products": 60, "overlap": 0.5}}
    config.models = {"a": quickstart.get_config(), "b": quickstart.get_config()}
    config.tasks = {"classification": finetune_classification.get_config()}
    config.parts = ({"corruptions": ("TMR100",)}, {"models": ("a",), "training": "MNR50"})
    with config.unlocked():
        for name, value in changes.items():
            config[name] = value
    return config


@pytest.fixture
def grid():
    return Grid.parse(small().to_dict())


def test_cells_are_the_parts_products_each_once_and_a_seed_is_whole_first(grid):
    cells = list(grid.cells())
    task = "classification"
    of_a = [
        FIRST,
        Trial("shop", "a", 0, task, "", ""),
        Trial("shop", "a", 0, task, "", "TMR100"),
    ]
    of_b = [cell._replace(model="b") for cell in of_a]
    of_seed = [*of_a, *of_b, Trial("shop", "a", 0, task, "MNR50", "")]
    assert cells == [*of_seed, *(cell._replace(seed=1) for cell in of_seed)]
    lanes = grid.lanes()
    assert list(lanes) == [RunGroup("shop", m, s) for s in (0, 1) for m in ("a", "b")]
    assert lanes[RunGroup("shop", "a", 0)] == [*of_a, of_seed[-1]]


def test_a_part_of_some_seeds_is_left_out_of_the_others():
    part = {"seeds": (1,), "models": ("a",), "tasks": ("classification",), "training": "MNR50"}
    grid = Grid.parse(small(parts=({"corruptions": ("TMR100",)}, part)).to_dict())
    assert [cell.seed for cell in grid.cells() if cell.training] == [1]
    assert {cell.seed for cell in grid.cells()} == {0, 1}


def test_a_fingerprint_is_of_what_decides_the_measurement(grid):
    cell = Trial("shop", "a", 0, "classification", "", "TMR100")
    before = grid.fingerprint(cell)
    assert grid.fingerprint(cell._replace(seed=1, corruption="")) == before
    assert grid.fingerprint(FIRST) != before
    for change, of_cell, of_pretraining in (
        ({"tasks.classification.training.steps": 7}, True, False),
        ({"models.a.training.steps": 7}, True, True),
        ({"models.b.training.steps": 7}, False, False),
        ({"data.shop.overlap": 0.7}, True, True),
        ({"split": "valid"}, True, True),
    ):
        config = small()
        config.update_from_flattened_dict(change)
        changed = Grid.parse(config.to_dict())
        assert (changed.fingerprint(cell) != before) == of_cell, change
        assert (changed.fingerprint(FIRST) != grid.fingerprint(FIRST)) == of_pretraining, change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": ({"models": ("c",)},)}, "parts: 'c' is none of models: a, b"),
        ({"parts": ({"corruptions": ("TMR",)},)}, "corruption 'TMR'"),
        ({"parts": ({"corruption": ("TMR50",)},)}, "did you mean parts.0..corruptions"),
        ({"tasks": {"x": quickstart.get_config()}}, "tasks.x: task.name is pretraining"),
        ({"data": {"shop": {"overlap": 2.0}}}, "data.shop.overlap: 2.0 is not between 0 and 1"),
        ({"data": {"shop": {"product": 3}}}, "did you mean data.shop.products"),
        ({"data": {"shop": {"folds": 1}}}, "data.shop.folds: 1 are too few"),
        (
            {"data": {"a b": {}, "a, b": {}}},
            "data: 'a b' and 'a, b' would share the folder 'a-b'",
        ),
        (
            {"models": dict.fromkeys(("a", "b", "b "), quickstart.get_config())},
            "models: 'b' and 'b ' would share",
        ),
        (
            {"tasks": dict.fromkeys(("x", "x-MNR50"), finetune_classification.get_config())},
            "tasks: 'x learned from MNR50' and 'x-MNR50' would share",
        ),
        ({"seeds": ("one",)}, "seeds.0.: int is expected"),
        ({"sedes": (1,)}, "look at 'sedes'"),
    ],
)
def test_a_mistake_is_named(change, message):
    with pytest.raises(UserError, match=message):
        Grid.parse(small(**change).to_dict())


def test_the_grid_of_the_embedded_catalogue_has_what_the_comparison_needs():
    grid = Grid.parse(get_config().to_dict())
    lanes = grid.lanes()
    pkg = [name for name in BASELINES if name.endswith("_pkg")]
    assert len(grid.seeds) >= 3
    assert len(grid.data) == 2
    low, high = grid.data
    for data, seed in (*((low, seed) for seed in grid.seeds), (high, 0)):
        for model in (
            "k3m",
            "vilbert",
            "vilbert_pkg",
            "vlbert",
            "vlbert_pkg",
            "lxmert",
            "lxmert_pkg",
        ):
            cells = lanes[RunGroup(data, model, seed)]
            tasks = ("classification", "alignment", "questions")
            headline = [c for c in cells if not c.training and c.task in tasks]
            assert len(headline) == len(tasks) * (1 + 9 * 4)
            assert {c.task for c in headline} == set(tasks)
    for model in ABLATIONS:
        cells = lanes[RunGroup(low, model, 0)]
        assert {c.corruption for c in cells} == {"", "TMR100", "TNR100"}
    corrupt = {c.training: set() for c in grid.cells() if c.training}
    for cell in grid.cells():
        if cell.training:
            corrupt[cell.training].add(cell.model)
    assert list(corrupt) == ["MNR50", "TMR100", "TNR100"]
    assert all(models >= {"k3m", *pkg} for models in corrupt.values())
    longer = {c.model for c in grid.cells() if c.task == "long classification"}
    assert longer == {"k3m", *pkg}


def halve(model):
    for part in (model.text, model.image, model.interactor):
        for name in ("width", "mlp", "text_mlp", "image_mlp"):
            if name in part:
                part[name] //= 2


@pytest.mark.parametrize("variant", ["wide", "longer", "longest"])
def test_a_variant_asks_what_the_whole_grid_has_asked_of_other_models(variant):
    """So that what it measures can be held against a line of the whole grid."""
    whole, varied = get_config(), get_config(variant)
    cells = set(Grid.parse(varied.to_dict()).cells())
    assert {cell.task for cell in cells} == {"pretraining", "questions", "long classification"}
    at_worst = {f"{each}100" for each in SETTINGS}
    assert {cell.corruption for cell in cells} == {"", *at_worst, "TNR20", "TNR50"}
    assert len(cells) == 3 * (1 + 2 * 10 + 2)
    assert cells < set(Grid.parse(whole.to_dict()).cells())
    assert all(varied.tasks[task] == whole.tasks[task] for task in varied.tasks)
    assert varied.data["overlap 20 %"] == whole.data["overlap 20 %"]
    for name, config in varied.models.items():
        before, now = whole.models[name], config.copy_and_resolve_references()
        if variant == "wide":
            halve(now.model)
            if name == "vlbert_pkg":
                assert now.model.text.width == 88  # of 80: more than twice, to cost as much
                now.model.text.width = 80
            now.optimizer.learning_rate *= 2
        else:
            now.training.steps = before.training.steps
        assert config != before
        assert now == before, name


def test_an_unknown_variant_is_told():
    with pytest.raises(UserError, match="'big' is not one of debug, wide, longer, longest"):
        get_config("big")


def add(path, grid, cell):
    content = {"metrics": {"accuracy": {"value": 0.5, "interval": None}}}
    results.add(path, cell, grid.fingerprint(cell._replace(model="a")), content)


def test_results_are_what_was_added_and_a_line_cut_short_is_not_done(grid, tmp_path):
    path = tmp_path / "results.jsonl"
    assert results.done(path, grid) == set()
    cells = list(grid.cells())[:3]
    for cell in cells:
        add(path, grid, cell)
    add(path, grid, cells[0]._replace(model="majority"))  # a floor is a result, but no cell
    assert results.done(path, grid) == set(cells)
    assert results.read_results(path)[cells[1]]["metrics"]["accuracy"]["value"] == 0.5
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert results.done(path, grid) == set(cells)
    first, second = whole.splitlines(keepends=True)[:2]
    for end in (-1, -3, -20):  # behind an inner brace, too
        path.write_text(first + second.rstrip("\n")[:end])
        assert results.done(path, grid) == {cells[0]}


def test_after_a_line_cut_short_the_next_result_is_a_line_of_its_own(grid, tmp_path):
    path = tmp_path / "results.jsonl"
    cells = list(grid.cells())[:2]
    add(path, grid, cells[0])
    path.write_text(path.read_text()[:-20])
    add(path, grid, cells[1])
    assert results.done(path, grid) == {cells[1]}


def test_results_of_another_grid_are_refused_and_a_foreign_line_is_named(grid, tmp_path):
    path = tmp_path / "results.jsonl"
    add(path, Grid.parse(small(split="valid").to_dict()), FIRST)
    with pytest.raises(UserError, match="shop, a, pretraining was measured with other settings"):
        results.done(path, grid)
    path.write_text(json.dumps({"data": "shop"}) + "\n")
    with pytest.raises(UserError, match=r"results\.jsonl:1: this is no result of a grid"):
        results.done(path, grid)


def test_the_grid_of_real_products_never_shows_text_on_both_sides_nor_names_a_class():
    grid = Grid.parse(grid_real_products.get_config("shops,minilm").to_dict())
    assert {products.folds for products in grid.data.values()} == {5}
    for name, settings in grid.tasks.items():
        task = settings.task
        if task.name == "alignment":
            assert task.second_shown == ("image",), name
        if task.name == "classification":
            assert "title" not in task.shown, name
            assert ("style" in task.hidden_properties) == ("luma" in task.catalogues), name
    wide = {name: model.init_from for name, model in grid.models.items() if "minilm" in name}
    assert wide == {"k3m_minilm": "minilm", "k3m_minilm_size": ""}
    with pytest.raises(UserError, match="names the products' folder"):
        grid_real_products.get_config()


def test_floors_are_lacking_until_they_are_there_whoever_measures_them(tmp_path):
    """Of products that each seed cuts anew, in each seed; of others once."""
    path = tmp_path / results.RESULTS

    def lacking(grid):
        cells = [cell for cell in grid.cells() if cell.task == "alignment"]
        seeds = {cell.seed for cell in cells if cell.model == "vlbert"}
        wanted = {seed: [c for c in cells if c.seed == seed and not c.training] for seed in seeds}
        return [seed for seed in seeds if results.lacks_floors(path, grid, wanted[seed])]

    embedded = Grid.parse(get_config().to_dict())
    real = Grid.parse(grid_real_products.get_config("shops").to_dict())
    assert lacking(embedded) == lacking(real) == [0, 1, 2]
    for grid in (embedded, real):
        for cell in grid.cells():
            asked = cell.task in ("alignment", "classification") and not cell.training
            if (cell.model, cell.seed) == ("lxmert", 1) and asked:
                for floor in TRIVIAL_BASELINES:
                    named = cell._replace(model=floor)
                    told = {"metrics": {"auc": {"value": 0.5}}}
                    results.add(path, named, grid.fingerprint(cell), told)
    assert lacking(real) == [0, 2]
    assert lacking(embedded) == [0]  # which has a level of data more
    own = [c for c in embedded.cells() if (c.model, c.task) == ("vlbert", "classification")]
    own = [cell for cell in own if cell.data == "overlap 20 %"]
    by_training = {t: [c for c in own if c.training == t] for t in ("", "MNR50")}
    assert not results.lacks_floors(path, embedded, by_training[""])
    assert results.lacks_floors(path, embedded, by_training["MNR50"])  # of other items


def test_floors_of_another_grid_are_measured_again_or_refused(grid, tmp_path):
    path = tmp_path / results.RESULTS
    cell = Trial("shop", "b", 1, "classification", "", "")
    for floor in TRIVIAL_BASELINES:
        add(path, grid, cell._replace(model=floor))  # in the lane of a
    assert not results.lacks_floors(path, grid, [cell])
    assert results.done(path, grid) == set()
    changes = ({"data.shop.overlap": 0.7}, {"tasks.classification.task.questions": 1})
    for change in (*changes, {"split": "valid"}):
        config = small()
        config.update_from_flattened_dict(change)
        changed = Grid.parse(config.to_dict())
        assert results.lacks_floors(path, changed, [cell]), change
        with pytest.raises(UserError, match="shop, majority, 1, classification was measured with"):
            results.done(path, changed)
    elsewhere = Grid.parse(small(seeds=(0,)).to_dict())  # has no such cell, but the same floors
    assert results.done(path, elsewhere) == set()
    assert not results.lacks_floors(path, elsewhere, [cell._replace(seed=0)])


def test_the_results_beside_the_docs_are_of_the_grids_as_they_are():
    real = "../shared/data/catalogue,runs/minilm/weights"
    for folder, config in (
        ("catalogue", get_config()),
        ("catalogue_wide", get_config("wide")),
        ("catalogue_longer", get_config("longer")),
        ("catalogue_longest", get_config("longest")),
        ("real_products", grid_real_products.get_config(real)),
    ):
        path = ROOT / "docs" / "grids" / folder / results.RESULTS
        assert results.done(path, Grid.parse(config.to_dict())), folder


def test_of_a_grocery_its_department_is_told_from_its_picture_country_and_brand(shared):
    lines = (shared / "data" / "catalogue" / "products.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    known = {key for r in records if r["source"] == "grocery" for key, _ in r["triples"]}
    grid = Grid.parse(grid_real_products.get_config("shops").to_dict())
    task = grid.tasks["departments of groceries"].task
    assert task.label == "department"
    assert known - set(task.hidden_properties) == {"department", "country of origin", "brand"}
