"""The trials of a grid, their order, and which of them its results file has."""

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


@pytest.fixture(scope="module")
def grid():
    return Grid.parse(small().to_dict())


@pytest.fixture(scope="module")
def catalogue_grid():
    return Grid.parse(get_config().to_dict())


def test_trials_are_the_products_of_the_blocks_seed_by_seed_without_repetition(grid):
    trials = list(grid.trials())
    task = "classification"
    of_a = [
        FIRST,
        Trial("shop", "a", 0, task, "", ""),
        Trial("shop", "a", 0, task, "", "TMR100"),
    ]
    of_b = [trial._replace(model="b") for trial in of_a]
    of_seed = [*of_a, *of_b, Trial("shop", "a", 0, task, "MNR50", "")]
    assert trials == [*of_seed, *(trial._replace(seed=1) for trial in of_seed)]
    groups = grid.run_groups()
    assert list(groups) == [RunGroup("shop", m, s) for s in (0, 1) for m in ("a", "b")]
    assert groups[RunGroup("shop", "a", 0)] == [*of_a, of_seed[-1]]


def test_a_block_may_be_limited_to_some_seeds():
    block = {"seeds": (1,), "models": ("a",), "tasks": ("classification",), "training": "MNR50"}
    grid = Grid.parse(small(parts=({"corruptions": ("TMR100",)}, block)).to_dict())
    assert [trial.seed for trial in grid.trials() if trial.training] == [1]
    assert {trial.seed for trial in grid.trials()} == {0, 1}


def test_a_fingerprint_covers_what_determines_the_measurement(grid):
    trial = Trial("shop", "a", 0, "classification", "", "TMR100")
    before = grid.fingerprint(trial)
    assert grid.fingerprint(trial._replace(seed=1, corruption="")) == before
    assert grid.fingerprint(FIRST) != before
    for change, of_trial, of_pretraining in (
        ({"tasks.classification.training.steps": 7}, True, False),
        ({"models.a.training.steps": 7}, True, True),
        ({"models.b.training.steps": 7}, False, False),
        ({"data.shop.overlap": 0.7}, True, True),
        ({"split": "valid"}, True, True),
    ):
        config = small()
        config.update_from_flattened_dict(change)
        changed = Grid.parse(config.to_dict())
        assert (changed.fingerprint(trial) != before) == of_trial, change
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
            "tasks: 'x trained with MNR50' and 'x-MNR50' would share",
        ),
        ({"seeds": ("one",)}, "seeds.0.: int is expected"),
        ({"sedes": (1,)}, "look at 'sedes'"),
    ],
)
def test_errors_name_the_key(change, message):
    with pytest.raises(UserError, match=message):
        Grid.parse(small(**change).to_dict())


def test_the_grid_of_the_embedded_catalogue_covers_the_comparison(catalogue_grid):
    grid = catalogue_grid
    groups = grid.run_groups()
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
            trials = groups[RunGroup(data, model, seed)]
            tasks = ("classification", "alignment", "questions")
            headline = [t for t in trials if not t.training and t.task in tasks]
            assert len(headline) == len(tasks) * (1 + 9 * 4)
            assert {t.task for t in headline} == set(tasks)
    for model in ABLATIONS:
        trials = groups[RunGroup(low, model, 0)]
        assert {t.corruption for t in trials} == {"", "TMR100", "TNR100"}
    corrupt = {t.training: set() for t in grid.trials() if t.training}
    for trial in grid.trials():
        if trial.training:
            corrupt[trial.training].add(trial.model)
    assert list(corrupt) == ["MNR50", "TMR100", "TNR100"]
    assert all(models >= {"k3m", *pkg} for models in corrupt.values())
    longer = {t.model for t in grid.trials() if t.task == "long classification"}
    assert longer == {"k3m", *pkg}


def halve(model):
    for part in (model.text, model.image, model.interactor):
        for name in ("width", "mlp", "text_mlp", "image_mlp"):
            if name in part:
                part[name] //= 2


@pytest.mark.parametrize("variant", ["wide", "longer", "longest"])
def test_a_variant_has_trials_of_the_whole_grid(variant, catalogue_grid):
    """So that its results are comparable with those of the whole grid."""
    whole, varied = get_config(), get_config(variant)
    trials = set(Grid.parse(varied.to_dict()).trials())
    assert {trial.task for trial in trials} == {"pretraining", "questions", "long classification"}
    at_worst = {f"{each}100" for each in SETTINGS}
    assert {trial.corruption for trial in trials} == {"", *at_worst, "TNR20", "TNR50"}
    assert len(trials) == 3 * (1 + 2 * 10 + 2)
    assert trials < set(catalogue_grid.trials())
    assert all(varied.tasks[task] == whole.tasks[task] for task in varied.tasks)
    assert varied.data["overlap 20 %"] == whole.data["overlap 20 %"]
    for name, config in varied.models.items():
        before, now = whole.models[name], config.copy_and_resolve_references()
        if variant == "wide":
            halve(now.model)
            if name == "vlbert_pkg":
                assert now.model.text.width == 88  # instead of 80, to equal the cost
                now.model.text.width = 80
            now.optimizer.learning_rate *= 2
        else:
            now.training.steps = before.training.steps
        assert config != before
        assert now == before, name


def test_an_unknown_variant_is_an_error():
    with pytest.raises(UserError, match="'big' is not one of debug, wide, longer, longest"):
        get_config("big")


def append(path, grid, trial):
    content = {"metrics": {"accuracy": {"value": 0.5, "interval": None}}}
    results.append(path, trial, grid.fingerprint(trial._replace(model="a")), content)


def test_results_are_read_back_and_a_truncated_line_does_not_count(grid, tmp_path):
    path = tmp_path / "results.jsonl"
    assert results.finished_trials(path, grid) == set()
    trials = list(grid.trials())[:3]
    for trial in trials:
        append(path, grid, trial)
    append(path, grid, trials[0]._replace(model="majority"))  # a result, but not a trial
    assert results.finished_trials(path, grid) == set(trials)
    assert results.read_results(path)[trials[1]]["metrics"]["accuracy"]["value"] == 0.5
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert results.finished_trials(path, grid) == set(trials)
    first, second = whole.splitlines(keepends=True)[:2]
    for end in (-1, -3, -20):  # also after an inner brace
        path.write_text(first + second.rstrip("\n")[:end])
        assert results.finished_trials(path, grid) == {trials[0]}
    append(path, grid, trials[2])  # on a line of its own
    assert results.finished_trials(path, grid) == {trials[0], trials[2]}


def test_results_of_another_grid_and_invalid_lines_are_errors(grid, tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, Grid.parse(small(split="valid").to_dict()), FIRST)
    with pytest.raises(UserError, match="shop, a, pretraining was measured with settings"):
        results.finished_trials(path, grid)
    path.write_text(json.dumps({"data": "shop"}) + "\n")
    with pytest.raises(UserError, match=r"results\.jsonl:1:"):
        results.finished_trials(path, grid)


def test_the_grid_of_real_products_hides_text_that_gives_the_answer():
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
    with pytest.raises(UserError, match="CATALOGUE"):
        grid_real_products.get_config()


def test_trivial_baselines_are_needed_once_or_per_seed_of_folds(tmp_path, catalogue_grid):
    path = tmp_path / results.RESULTS

    def seeds_in_need(grid):
        trials = [trial for trial in grid.trials() if trial.task == "alignment"]
        seeds = {trial.seed for trial in trials if trial.model == "vlbert"}
        wanted = {seed: [t for t in trials if t.seed == seed and not t.training] for seed in seeds}
        return [s for s in seeds if results.needs_trivial_baselines(path, grid, wanted[s])]

    real = Grid.parse(grid_real_products.get_config("shops").to_dict())
    assert seeds_in_need(catalogue_grid) == seeds_in_need(real) == [0, 1, 2]
    content = {"metrics": {"auc": {"value": 0.5}}}
    for grid in (catalogue_grid, real):
        for trial in grid.trials():
            measured = trial.task in ("alignment", "classification") and not trial.training
            if (trial.model, trial.seed) == ("lxmert", 1) and measured and not trial.corruption:
                for name in TRIVIAL_BASELINES:
                    named = trial._replace(model=name)
                    results.append(path, named, grid.fingerprint(trial), content)
    clean = [t for t in catalogue_grid.trials() if not t.corruption and t.model == "vlbert"]
    own = [t for t in clean if (t.data, t.task) == ("overlap 20 %", "classification")]
    by_training = {name: [t for t in own if t.training == name] for name in ("", "MNR50")}
    assert not results.needs_trivial_baselines(path, catalogue_grid, by_training[""])
    assert results.needs_trivial_baselines(path, catalogue_grid, by_training["MNR50"])
    of_real = {s: [t for t in real.trials() if t.seed == s] for s in (0, 1)}
    of_real = {
        s: [t for t in trials if t.task == "alignment" and not t.corruption]
        for s, trials in of_real.items()
    }
    assert results.needs_trivial_baselines(path, real, of_real[0])
    assert not results.needs_trivial_baselines(path, real, of_real[1])


def test_trivial_baselines_of_another_grid_are_measured_again_or_refused(grid, tmp_path):
    path = tmp_path / results.RESULTS
    trial = Trial("shop", "b", 1, "classification", "", "")
    for name in TRIVIAL_BASELINES:
        append(path, grid, trial._replace(model=name))  # by the run group of a
    assert not results.needs_trivial_baselines(path, grid, [trial])
    assert results.finished_trials(path, grid) == set()
    changes = ({"data.shop.overlap": 0.7}, {"tasks.classification.task.questions": 1})
    for change in (*changes, {"split": "valid"}):
        config = small()
        config.update_from_flattened_dict(change)
        changed = Grid.parse(config.to_dict())
        assert results.needs_trivial_baselines(path, changed, [trial]), change
        with pytest.raises(UserError, match="shop, majority, 1, classification was measured with"):
            results.finished_trials(path, changed)
    other = Grid.parse(small(seeds=(0,)).to_dict())  # other trials, the same trivial baselines
    assert results.finished_trials(path, other) == set()
    assert not results.needs_trivial_baselines(path, other, [trial._replace(seed=0)])


def test_the_kept_results_are_valid_for_the_current_grids():
    real = "../shared/data/catalogue,runs/minilm/weights"
    for folder, config in (
        ("catalogue", get_config()),
        ("catalogue_wide", get_config("wide")),
        ("catalogue_longer", get_config("longer")),
        ("catalogue_longest", get_config("longest")),
        ("real_products", grid_real_products.get_config(real)),
    ):
        path = ROOT / "docs" / "grids" / folder / results.RESULTS
        assert results.finished_trials(path, Grid.parse(config.to_dict())), folder


def test_departments_of_groceries_hide_all_properties_but_country_and_brand(shared):
    lines = (shared / "data" / "catalogue" / "products.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    known = {key for r in records if r["source"] == "grocery" for key, _ in r["triples"]}
    grid = Grid.parse(grid_real_products.get_config("shops").to_dict())
    task = grid.tasks["departments of groceries"].task
    assert task.label == "department"
    assert known - set(task.hidden_properties) == {"department", "country of origin", "brand"}
