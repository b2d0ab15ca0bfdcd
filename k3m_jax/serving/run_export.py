"""A run's checkpoint to a folder that needs neither the run nor its shards."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from k3m_jax import settings
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store import remote
from k3m_jax.data.store.shards import ShardSet, open_shards
from k3m_jax.evaluation.report import Report
from k3m_jax.evaluation.task_report import TaskReport
from k3m_jax.model.network import Network
from k3m_jax.model.task_network import network_of, split_params
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.serving import folder, model_card
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.checkpoints import Which, load_meta, load_params


def export_run(
    workdir: epath.Path,
    output: epath.Path,
    *,
    which: Which,
    platforms: Sequence[str],
    sources: Sequence[str] = (),
    tokenizer: str = "",
) -> None:
    """Writes the folder of `folder.write` from a run.

    Args:
      workdir: of the run.
      output: must not exist, or be empty; local or remote.
      which: checkpoint, see `load_params`.
      platforms: of the artefacts.
      sources: the run's shards, if they have moved.
      tokenizer: folder of the run's tokenizer, if it has moved.

    Raises:
      UserError: there is no such checkpoint or no tokenizer, what is named as the run's is not, the
        folder is not empty, or the model is a baseline.
    """
    remote.check_empty(output)
    meta = load_meta(workdir, which)
    chosen = Settings.from_config(meta.settings)
    if (preset := chosen.model.preset) not in ("paper", "release"):
        raise UserError(
            f"{workdir} is of model.preset {preset!r}, a baseline, and only K3M is exported: "
            "measure it by launch.evaluate or launch.probe"
        )
    named = [open_shards(source) for source in sources]
    shard_sets = named or list(_at_hand(chosen.data.sources))
    found = _tokenizer(tokenizer or chosen.data.tokenizer, shard_sets)
    if found.fingerprint != meta.vocabulary:
        raise UserError(f"--tokenizer: another vocabulary than that of the run in {workdir}")
    params, step = load_params(workdir, which, network_of(chosen), make_mesh(settings.Mesh(data=1)))
    if chosen.task.downstream:  # what embeds is exported, not the head
        params, _ = split_params(params)
        chosen = dataclasses.replace(chosen, task=settings.Task())
    network = Network(chosen).looped()
    known = {each.info.fingerprint: each for each in shard_sets}
    facts = model_card.Facts(
        settings=chosen,
        step=step,
        parameters=sum(x.size for x in jax.tree.leaves(params)),
        data=tuple(_data(known.get(fingerprint), fingerprint) for fingerprint in meta.data),
        versions=meta.versions,
        imported=meta.imported,
        reports=_reports(workdir, step),
    )
    folder.write(
        output,
        network,
        params,
        found,
        platforms=platforms,
        origin={"step": step, "data": list(map(dataclasses.asdict, facts.data))},
        card=model_card.write(facts, network, platforms),
    )


def _at_hand(sources: Sequence[str]) -> Iterator[ShardSet]:
    """Those shards that can be opened: a run outlives them."""
    for source in sources:
        with contextlib.suppress(UserError):
            yield open_shards(source)


def _tokenizer(named: str, shard_sets: Sequence[ShardSet]) -> Tokenizer:
    kept = next((each.tokenizer_folder for each in shard_sets if each.tokenizer_folder), None)
    if not (named or kept):
        raise UserError("the run's shards are not at hand, nor is a tokenizer: name --tokenizer")
    return Tokenizer.load(named or kept)


def _data(shards: ShardSet | None, fingerprint: str) -> model_card.DataSet:
    if shards is None:
        return model_card.DataSet(fingerprint)
    info = shards.info
    name = pathlib.PurePath(info.arguments.get("input", "")).name
    return model_card.DataSet(fingerprint, name, dict(info.products), dict(info.missing))


def _reports(workdir: epath.Path, step: int) -> tuple[Report | TaskReport, ...]:
    """What `launch.evaluate` and `launch.probe` measured of this very checkpoint."""
    paths = [path for kind in ("evaluation", "probe") for path in workdir.glob(f"{kind}-*.json")]
    found = (json.loads(path.read_text()) for path in sorted(paths))
    return tuple(
        (TaskReport if "task" in content else Report).of_json(content)
        for content in found
        if content["checkpoint"] == step
    )
