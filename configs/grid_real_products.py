"""K3M and its baselines on Magento's demo shops and grocery photographs: a grid for launch.sweep.

  python -m launch.sweep --workdir=runs/real --grid=configs/grid_real_products.py:CATALOGUE[,MINILM]

CATALOGUE is a folder of these products (docs/results.md). They are cut into five parts, and each of
three seeds learns from four of them and is measured on a part of its own. MINILM is a folder of
imported weights (docs/weights.md): a K3M whose text encoder begins with them, and one of its size
that begins at random.
"""

import ml_collections

from configs import (
    baselines,
    finetune_alignment,
    finetune_classification,
    finetune_questions,
    minilm_warm_start,
    quickstart,
)
from k3m_jax.settings import UserError

BASELINES = tuple(name for name in baselines.SIZES if name != "bert")
# More triples are read here than of the embedded catalogue, and the sizes of `configs/baselines.py`
# would be 14 % cheaper than K3M, and 13 and 14 % dearer.
SIZES = {
    "bert_pkg": {"text": {"width": 120}},
    "vilbert": {"image": {"mlp": 256}},
    "lxmert_pkg": {"text": {"mlp": 64}, "interactor": {"text_mlp": 64}},
}
# Titles name the class outright, and so do these properties.
SHOPS_HIDE = ("style", "use")
# A grocery has a class to itself as often as not, of which nothing is learned where it is held out:
# its department is asked for. Nutrition, net content and flavour would tell the product.
GROCERIES_HIDE = (
    *("net content", "quality class", "organic", "flavour", "energy kcal", "fat g", "protein g"),
    *("saturated fat g", "carbohydrate g", "sugar g", "fibre g", "salt g", "calcium mg"),
    *("vitamin C mg", "vitamin D µg"),
)


def get_config(folders: str = "") -> ml_collections.ConfigDict:
    catalogue, _, minilm = folders.partition(",")
    if not catalogue:
        raise UserError("--grid=configs/grid_real_products.py:CATALOGUE names the products' folder")
    models = {"k3m": quickstart.get_config()}
    models |= {each: baselines.get_config(each) for each in BASELINES}
    for name, sizes in SIZES.items():
        models[name].model.update(sizes)
    for config in models.values():
        config.lengths.knowledge = 48
        config.model.positions = 80
        config.training.steps = 600
    tasks = _tasks(rate=1e-3, steps=200, batch=32)
    if minilm:
        models["k3m_minilm_size"] = minilm_warm_start.get_config()
        models["k3m_minilm_size"].data.tokenizer = minilm
        models["k3m_minilm_size"].training.update(steps=100, batch=16)
        models["k3m_minilm"] = models["k3m_minilm_size"].copy_and_resolve_references()
        models["k3m_minilm"].init_from = minilm
        # A step is dear, and what was learned elsewhere soon forgotten at a small model's rate.
        wide = _tasks(rate=2e-4, steps=80, batch=16)
        tasks |= {f"{name}, wide text": config for name, config in wide.items()}
    for config in (*models.values(), *tasks.values()):
        # Nothing is chosen by what is held out: the last step is measured.
        config.training.update(eval_every=0, checkpoint_every=100, keep=1)
    narrow = ("k3m", *BASELINES)
    parts = [_part(narrow, ""), _part(narrow, "", titles=True)]
    if minilm:
        wide = ("k3m_minilm", "k3m_minilm_size")
        parts += [_part(wide, ", wide text"), _part(wide, ", wide text", titles=True)]
    return ml_collections.ConfigDict(
        {
            "split": "test",
            "seeds": (0, 1, 2),
            "data": {"real products": {"folder": catalogue, "folds": 5}},
            "models": models,
            "tasks": tasks,
            "parts": tuple(parts),
        }
    )


def _tasks(rate: float, steps: int, batch: int) -> dict[str, ml_collections.ConfigDict]:
    tasks = {
        "classes of clothes": finetune_classification.get_config(),
        "departments of groceries": finetune_classification.get_config(),
        "alignment": finetune_alignment.get_config(),
        "questions": finetune_questions.get_config(),
    }
    for config in tasks.values():
        config.optimizer.learning_rate = rate
        config.training.update(steps=steps, batch=batch)
    tasks["classes of clothes"].task.update(
        catalogues=("luma", "venia"), hidden_properties=SHOPS_HIDE, shown=("image", "knowledge")
    )
    tasks["departments of groceries"].task.update(
        label="department",
        catalogues=("grocery",),
        hidden_properties=GROCERIES_HIDE,
        shown=("image", "knowledge"),
    )
    # Text on both sides would decide by itself: items of one product share it.
    everything = ("title", "image", "knowledge")
    tasks["alignment"].task.update(first_shown=everything, second_shown=("image",))
    return tasks


def _part(models: tuple[str, ...], suffix: str, titles: bool = False) -> dict[str, tuple[str, ...]]:
    """The tasks that show titles, or those that do not, each corrupt in what it shows."""
    if titles:
        tasks, corrupt = ("alignment", "questions"), ("TMR100", "TNR100", "TINR100")
    else:
        tasks, corrupt = ("classes of clothes", "departments of groceries"), ("KMR100", "KNR100")
    return {
        "models": models,
        "tasks": tuple(f"{task}{suffix}" for task in tasks),
        "corruptions": ("IMR100", "INR100", *corrupt),
    }
