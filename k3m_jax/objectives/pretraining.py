"""The pretraining tasks together: those that a batch of the preset asks (`data.batch.PARTS`)."""

from collections.abc import Container, Mapping

import jax

from k3m_jax import settings
from k3m_jax.data.input.batch import Batch
from k3m_jax.model.baselines.baseline import BaselineOutputs
from k3m_jax.model.image_encoder import region_features
from k3m_jax.model.k3m import Outputs
from k3m_jax.objectives.link_prediction import link_margin
from k3m_jax.objectives.masked_language import masked_language
from k3m_jax.objectives.masked_object import class_divergence, feature_regression, noise_contrastive
from k3m_jax.objectives.sums import Sum, safe_ratio
from k3m_jax.reproductions.release.model import ReleasedOutputs
from k3m_jax.reproductions.release.objectives import match, true_or_false_product

AnyOutputs = Outputs | ReleasedOutputs | BaselineOutputs

# By task, the arrays of a batch that ask for something; a batch has those of its preset.
TASKS = {
    "mlm": ("mlm_weights",),
    "mom": ("mom_weights",),
    "lpm": ("link_value_weights", "link_item_weights"),
    "mvm": ("value_weights",),
    "structure": ("pair_weights",),
}


def tasks(arrays: Container[str]) -> list[str]:
    """The tasks of a batch that has `arrays`."""
    return [task for task, asked in TASKS.items() if asked[0] in arrays]


def weights(batch: Batch) -> dict[str, jax.Array]:
    """What each task's sum is divided by, known before the model is run."""
    return {task: sum(batch[name].sum() for name in TASKS[task]) for task in tasks(batch)}


def sums(
    outputs: AnyOutputs,
    batch: Batch,
    objectives: settings.Objectives,
    key: jax.Array | None,
) -> dict[str, Sum]:
    """The losses of the batch's tasks under their names, and their rates of right answers.

    Args:
      outputs: of the model on `batch`.
      batch: as `data.batch.batch_spec` says.
      objectives: margins, variants, rows per group.
      key: draws the negatives of MOM's `nce`; None draws the same ones every time.

    Returns:
      Of `mlm`, `mom`, `lpm`, `mvm` and `structure` those that are asked, each with its `…_accuracy`
      (`mom_top1`; none of MOM's `regression`), and `match_loss` beside `structure`.
    """
    results: dict[str, Sum] = {}
    for task in tasks(batch):
        results |= _SUMS[task](outputs, batch, objectives, key)
    return results


def _mlm(
    outputs: AnyOutputs, batch: Batch, objectives: settings.Objectives, key: jax.Array | None
) -> dict[str, Sum]:
    loss, accuracy = masked_language(outputs.mlm_logits, batch["mlm_targets"], batch["mlm_weights"])
    return {"mlm": loss, "mlm_accuracy": accuracy}


def _mom(
    outputs: AnyOutputs, batch: Batch, objectives: settings.Objectives, key: jax.Array | None
) -> dict[str, Sum]:
    prediction, asked = outputs.mom_prediction, batch["mom_weights"]
    if objectives.mom.variant == "kl":
        loss, top1 = class_divergence(prediction, batch["class_ids"], batch["class_probs"], asked)
        return {"mom": loss, "mom_top1": top1}
    features = region_features(batch["region_inputs"])
    if objectives.mom.variant == "regression":
        return {"mom": feature_regression(prediction, features, asked)}
    key = jax.random.key(0) if key is None else key
    valid = batch["region_mask"][:, 1:]
    loss, top1 = noise_contrastive(prediction, features, valid, asked, objectives.group, key)
    return {"mom": loss, "mom_top1": top1}


def _lpm(
    outputs: AnyOutputs, batch: Batch, objectives: settings.Objectives, key: jax.Array | None
) -> dict[str, Sum]:
    loss, accuracy = link_margin(
        outputs.product.embedding,
        outputs.link_properties,
        outputs.link_values,
        batch["link_value_weights"],
        batch["link_items"],
        batch["link_item_weights"],
        group=objectives.group,
        margin=objectives.lpm.margin,
        norm=objectives.lpm.norm,
    )
    return {"lpm": loss, "lpm_accuracy": accuracy}


def _mvm(
    outputs: AnyOutputs, batch: Batch, objectives: settings.Objectives, key: jax.Array | None
) -> dict[str, Sum]:
    loss, accuracy = masked_language(
        outputs.value_logits, batch["value_targets"], batch["value_weights"]
    )
    return {"mvm": loss, "mvm_accuracy": accuracy}


def _structure(
    outputs: AnyOutputs, batch: Batch, objectives: settings.Objectives, key: jax.Array | None
) -> dict[str, Sum]:
    loss, accuracy = true_or_false_product(outputs.pair_logits, batch["pair_weights"])
    matched = match(outputs.match_logits, batch["mismatched"])
    return {"structure": loss, "structure_accuracy": accuracy, "match_loss": matched}


_SUMS = {"mlm": _mlm, "mom": _mom, "lpm": _lpm, "mvm": _mvm, "structure": _structure}


def total(
    results: Mapping[str, Sum], whole: Mapping[str, jax.Array], objectives: settings.Objectives
) -> jax.Array:
    """The weighted sum of the tasks' means; a task with nothing asked for adds 0.

    Args:
      results: of `sums`, of the whole batch or of one micro-batch.
      whole: of `weights`, of the whole batch: micro-batches then add up to it exactly.
      objectives: the tasks' weights.
    """
    parts = [
        getattr(objectives, task).weight * safe_ratio(results[task].total, whole[task])
        for task in whole
    ]
    return sum(parts)
