"""The comparison of K3M with its baselines on the embedded catalogue: a grid for launch.sweep.

Models differ only in their sizes (configs/baselines.py): steps, batch, learning rates and seeds are
the same for all. They and the products were fixed before the first comparison was run; the long
tasks, questions trained on corrupt items, training on items without titles, and the variants were
added afterwards, to explain its results: `:wide` has models of twice the width, `:longer` and
`:longest` have three and nine times the steps of pretraining.
"""

import itertools

import ml_collections

from configs import (
    baselines,
    debug,
    finetune_alignment,
    finetune_classification,
    finetune_questions,
    quickstart,
)
from k3m_jax.settings import UserError

BASELINES = tuple(baselines.SIZES)
SETTINGS = ("TMR", "IMR", "MMR", "TNR", "INR", "TINR", "MNR", "KMR", "KNR")
RATES = (20, 50, 80, 100)
ABLATIONS = {
    "k3m_mean": {"model.fusion.mode": "mean"},
    "k3m_soft": {"model.fusion.mode": "soft"},
    "k3m_without_iffm": {"model.fusion.mode": "interactive"},
    "k3m_without_structure": {"model.structure.heads": 0},
    "k3m_without_lpm": {"objectives.lpm.weight": 0.0},
    "k3m_one_head": {"model.structure.heads": 1},
    "k3m_eight_heads": {"model.structure.heads": 8},
}
TIMES_THE_STEPS = {"longer": 3, "longest": 9}
VARIANTS = ("debug", "wide", *TIMES_THE_STEPS)


def get_config(name: str = "") -> ml_collections.ConfigDict:
    if name not in ("", *VARIANTS):
        raise UserError(f"--grid: {name!r} is not one of {', '.join(VARIANTS)}")
    models = {"k3m": quickstart.get_config()}
    models |= {each: baselines.get_config(each) for each in BASELINES}
    models |= {each: quickstart.get_config() for each in ABLATIONS}
    for each, changes in ABLATIONS.items():
        models[each].update_from_flattened_dict(changes)
    tasks = {
        "classification": finetune_classification.get_config(),
        "alignment": finetune_alignment.get_config(),
        "questions": finetune_questions.get_config(),
    }
    everything = ("title", "image", "knowledge")
    tasks["alignment"].task.update(first_shown=everything, second_shown=everything)
    for task, rate, steps in (
        ("classification", 1e-3, 300),
        ("alignment", 1e-3, 400),
        ("questions", 2e-3, 400),
    ):
        tasks[task].optimizer.learning_rate = rate
        tasks[task].training.steps = steps
    compared_at = tuple(tasks)
    # Do the differences persist in models that are trained for longer?
    for task, steps in (("classification", 1000), ("questions", 1200)):
        tasks[f"long {task}"] = tasks[task].copy_and_resolve_references()
        tasks[f"long {task}"].training.steps = steps
    for config in (*models.values(), *tasks.values()):
        # The last step is measured; nothing is selected on held-out products.
        config.training.update(eval_every=0, checkpoint_every=100, keep=1)
    corrupt = tuple(f"{setting}{rate}" for setting, rate in itertools.product(SETTINGS, RATES))
    at_worst = tuple(f"{setting}100" for setting in SETTINGS)
    compared = ("k3m", *(each for each in BASELINES if each != "bert"))
    with_triples = tuple(each for each in compared if each == "k3m" or each.endswith("_pkg"))
    one_level = {"data": ("overlap 20 %",)}
    one_seed = {"seeds": (0,)}
    everywhere = {"tasks": compared_at, "corruptions": corrupt}
    grid = ml_collections.ConfigDict(
        {
            "split": "test",
            "seeds": (0, 1, 2),
            "data": {
                # The more modalities repeat each other, the less a missing one matters.
                "overlap 20 %": {"products": 2000, "overlap": 0.2},
                "overlap 60 %": {"products": 2000, "overlap": 0.6},
            },
            "models": models,
            "tasks": tasks,
            "parts": (
                {**one_level, **everywhere, "models": compared},
                {**one_level, **one_seed, **everywhere, "models": ("bert",)},
                {**one_seed, **everywhere, "models": compared, "data": ("overlap 60 %",)},
                {
                    **one_level,
                    **one_seed,
                    "models": ("k3m", *ABLATIONS),
                    "tasks": compared_at,
                    "corruptions": ("TMR100", "TNR100"),
                },
                {
                    **one_level,
                    "models": compared,
                    "tasks": ("classification",),
                    "corruptions": ("MNR50", "MNR100", "TMR100", "TNR100"),
                    "training": "MNR50",
                },
                {
                    **one_level,
                    "models": with_triples,
                    "tasks": ("long classification",),
                    "corruptions": at_worst,
                },
                # Does a lead in questions persist after longer fine-tuning, as it does not in
                # classification? Against the best baseline with pictures and the best without.
                {
                    **one_level,
                    "seeds": (2,),
                    "models": ("k3m", "vlbert_pkg", "bert_pkg"),
                    "tasks": ("long questions",),
                    "corruptions": at_worst,
                },
                {
                    **one_level,
                    "seeds": (2,),
                    "models": with_triples,
                    "tasks": ("questions",),
                    "corruptions": ("MNR50", "MNR100", "TMR100", "TNR100"),
                    "training": "MNR50",
                },
                # A whole data set is corrupt, including the training items.
                *(
                    {
                        **one_level,
                        **one_seed,
                        "models": with_triples,
                        "tasks": ("classification",),
                        "corruptions": (each,),
                        "training": each,
                    }
                    for each in ("TMR100", "TNR100")
                ),
            ),
        }
    )
    if name == "debug":
        return _tiny(grid)
    return _varied(grid, name) if name else grid


def _varied(grid: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The decisive trials of one seed: K3M and the best in questions, with pictures and without."""
    grid.models = {each: grid.models[each] for each in ("k3m", "vlbert_pkg", "bert_pkg")}
    if name == "wide":
        for config in grid.models.values():
            _widen(config)
        grid.models.vlbert_pkg.model.text.width = 176  # 160 would cost 13 % less than K3M
    else:
        for config in grid.models.values():
            config.training.steps *= TIMES_THE_STEPS[name]
    grid.data = {"overlap 20 %": grid.data["overlap 20 %"]}
    grid.seeds = (0,)
    grid.tasks = {each: grid.tasks[each] for each in ("questions", "long classification")}
    grid.parts = (
        {"corruptions": tuple(f"{setting}100" for setting in SETTINGS)},
        # The share of wrong titles at which a lead begins.
        {"tasks": ("questions",), "corruptions": ("TNR20", "TNR50")},
    )
    return grid


def _widen(config: ml_collections.ConfigDict) -> None:
    for part, widths in {
        "text": ("width", "mlp"),
        "image": ("width", "mlp"),
        "interactor": ("width", "image_mlp", "text_mlp"),
    }.items():
        for each in widths:
            config.model[part][each] *= 2
    # Adam changes each weight by the same amount whatever the width, and twice as many add up.
    config.optimizer.learning_rate /= 2


def _tiny(grid: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Seconds instead of hours, to check that everything runs."""
    for config in (*grid.models.values(), *grid.tasks.values()):
        debug.shrink(config)
        config.training.update(steps=4, eval_every=0, checkpoint_every=4, keep=1)
    grid.models = {name: grid.models[name] for name in ("k3m", "bert_pkg")}
    grid.seeds = (0,)
    grid.data = {"tiny": {"products": 60}}
    for long in [task for task in grid.tasks if task.startswith("long ")]:
        del grid.tasks[long]
    grid.parts = (
        {"corruptions": ("TMR50", "TMR100")},
        {"models": ("k3m",), "tasks": ("classification",), "training": "MNR50"},
    )
    return grid
