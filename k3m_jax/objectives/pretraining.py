"""The pretraining tasks together: MLM + MOM + LPM, or those of the `release` preset."""

from collections.abc import Container, Mapping

import jax

from k3m_jax import settings
from k3m_jax.data.batch import Batch
from k3m_jax.model.image_encoder import region_features
from k3m_jax.model.k3m import Outputs
from k3m_jax.model.released_k3m import ReleasedOutputs
from k3m_jax.objectives.link_prediction import link_margin
from k3m_jax.objectives.masked_language import masked_language
from k3m_jax.objectives.masked_object import (
    class_divergence,
    feature_regression,
    noise_contrastive,
)
from k3m_jax.objectives.released import match, true_or_false_product
from k3m_jax.objectives.sums import Sum, safe_ratio

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
    outputs: Outputs | ReleasedOutputs,
    batch: Batch,
    objectives: settings.Objectives,
    key: jax.Array | None,
) -> dict[str, Sum]:
    """The tasks' losses under `TASKS` and their rates of right answers.

    Args:
      outputs: of the model on `batch`.
      batch: as `data.batch.batch_spec` says.
      objectives: margins, variants, rows per group.
      key: draws the negatives of MOM's `nce`; None draws the same ones every time.

    Returns:
      `mlm`, `mom`, `lpm`, `mlm_accuracy`, `lpm_accuracy` and, but for MOM's `regression`,
      `mom_top1`. Of the `release` preset, `mvm` and `structure` with their `…_accuracy` and
      `match_loss` in the place of LPM's.
    """
    result = {}
    result["mlm"], result["mlm_accuracy"] = masked_language(
        outputs.mlm_logits, batch["mlm_targets"], batch["mlm_weights"]
    )
    prediction, asked = outputs.mom_prediction, batch["mom_weights"]
    if objectives.mom.variant == "kl":
        result["mom"], result["mom_top1"] = class_divergence(
            prediction, batch["class_ids"], batch["class_probs"], asked
        )
    else:
        features = region_features(batch["region_inputs"])
        if objectives.mom.variant == "regression":
            result["mom"] = feature_regression(prediction, features, asked)
        else:
            result["mom"], result["mom_top1"] = noise_contrastive(
                prediction,
                features,
                batch["region_mask"][:, 1:],
                asked,
                objectives.group,
                jax.random.key(0) if key is None else key,
            )
    if isinstance(outputs, ReleasedOutputs):
        return result | _released(outputs, batch)
    lpm = objectives.lpm
    result["lpm"], result["lpm_accuracy"] = link_margin(
        outputs.product.embedding,
        outputs.link_properties,
        outputs.link_values,
        batch["link_value_weights"],
        batch["link_items"],
        batch["link_item_weights"],
        group=objectives.group,
        margin=lpm.margin,
        norm=lpm.norm,
    )
    return result


def _released(outputs: ReleasedOutputs, batch: Batch) -> dict[str, Sum]:
    mvm, mvm_accuracy = masked_language(
        outputs.value_logits, batch["value_targets"], batch["value_weights"]
    )
    structure, structure_accuracy = true_or_false_product(
        outputs.pair_logits, batch["pair_weights"]
    )
    return {
        "mvm": mvm,
        "mvm_accuracy": mvm_accuracy,
        "structure": structure,
        "structure_accuracy": structure_accuracy,
        "match_loss": match(outputs.match_logits, batch["mismatched"]),
    }


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
