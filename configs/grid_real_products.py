"""K3M and its baselines on Magento's demo shops and grocery photographs: a grid for launch.sweep.

  python -m launch.sweep --workdir=runs/real --grid=configs/grid_real_products.py:CATALOGUE[,MINILM]

CATALOGUE is a folder of these products (docs/results.md). They are cut into five folds, and each of
three seeds holds out another fold for measurement. MINILM is a folder of imported weights
(docs/weights.md): it adds a K3M whose text encoder starts from them, and one of the same size that
starts from random weights.
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
# Items have more triples here than in the embedded catalogue, so that with the sizes of
# `configs/baselines.py` these three would cost 14 % less, 13 % more and 14 % more than K3M.
SIZES = {
    "bert_pkg": {"text": {"width": 120}},
    "vilbert": {"image": {"mlp": 256}},
    "lxmert_pkg": {"text": {"mlp": 64}, "interactor": {"text_mlp": 64}},
}
# These properties, like titles, name the class.
SHOPS_HIDE = ("style", "use")
# About half of the groceries are alone in their class, which can't be learned when they are held
# out: the label is the department. Nutrition, net content and flavour would identify the product.
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
        # Steps are expensive, and a small model's rate would destroy the imported weights.
        wide = _tasks(rate=2e-4, steps=80, batch=16)
        tasks |= {f"{name}, wide text": config for name, config in wide.items()}
    for config in (*models.values(), *tasks.values()):
        # The last step is measured; nothing is selected on held-out products.
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
    # Text on both sides would make the task trivial: items of one product share it.
    everything = ("title", "image", "knowledge")
    tasks["alignment"].task.update(first_shown=everything, second_shown=("image",))
    return tasks


def _part(models: tuple[str, ...], suffix: str, titles: bool = False) -> dict[str, tuple[str, ...]]:
    """The tasks with titles, or those without, each with corruptions of its inputs."""
    if titles:
        tasks, corrupt = ("alignment", "questions"), ("TMR100", "TNR100", "TINR100")
    else:
        tasks, corrupt = ("classes of clothes", "departments of groceries"), ("KMR100", "KNR100")
    return {
        "models": models,
        "tasks": tuple(f"{task}{suffix}" for task in tasks),
        "corruptions": ("IMR100", "INR100", *corrupt),
    }
