"""Any run on held-out products: by its pretraining objectives, or on a downstream task."""

import contextlib
import dataclasses
import hashlib
import pathlib
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.data.input.pipeline import Inputs, open_inputs
from k3m_jax.data.store.shards import ShardSet, open_shards
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation.embedding import RememberingEmbedder
from k3m_jax.evaluation.evaluator import Evaluator
from k3m_jax.evaluation.report import ExternalDataInfo, Report
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.pretrained.vision import open_identical
from k3m_jax.pretrained.vision.extraction import BATCH, extract
from k3m_jax.runs.task_evaluation import TaskEvaluation
from k3m_jax.settings import Corruption, Data, Settings, Task, UserError
from k3m_jax.training.checkpoints import Meta, Which, load_params
from k3m_jax.training.task_network import network_of, split_params

PRODUCTS = "products.jsonl"


def measure_run(
    settings: Settings,
    meta: Meta,
    workdir: epath.Path,
    which: Which,
    *,
    split: str,
    corruptions: Sequence[Corruption],
    sources: Sequence[str] = (),
    probes: Mapping[str, Task] = types.MappingProxyType({}),
    trivial_baselines: bool = True,
    classical: bool = False,
) -> Iterator[Report]:
    """Measures a checkpoint on a split: a report for each corruption and, of probes, each task.

    Of a pretrained run that on clean items is followed by one of its stability.

    Args:
      sources: to measure on, shards or folders of products; () are the run's own. Baselines and
        thresholds of a task come from its own all the same, the baseline of pretraining from these
        if they have a training split.
      probes: tasks that heads are fitted for, by the names of their reports; without any the run is
        measured on what it was trained for.
      classical: whether classification stands next to `tasks.fitted_baselines` too.

    Raises UserError: no such data or split, another vocabulary, or what `TaskEvaluation` raises.
    """
    inputs = open_run_data(settings.data, meta, workdir)
    held_out = [open_source(source, inputs.shard_sets[0], workdir) for source in sources]
    pretraining, training = not (probes or settings.task.downstream), inputs
    if pretraining and held_out:
        settings = _with_data(settings, weights=())
        inputs, training = elsewhere(inputs, held_out, settings.data.train_split)
    settings = inputs.resolve(settings)
    mesh, network = make_mesh(settings.mesh), network_of(settings)
    params, step = load_params(workdir, which, network, mesh)
    external = ExternalDataInfo.of(sources, held_out)
    if pretraining:
        for corruption in corruptions:
            measured = _with_data(settings, valid_split=split, valid_corruption=corruption)
            evaluator = Evaluator(Network(measured), mesh, inputs, training)
            for report in evaluator.reports(params, step, trivial_baselines=trivial_baselines):
                yield dataclasses.replace(report, external=external)
        return
    params, head = split_params(params) if settings.task.downstream else (params, None)
    network = Network(dataclasses.replace(settings, task=Task()))
    embedder = RememberingEmbedder(network, mesh, inputs.tokenizer, params)
    for name, task in (probes or {settings.task.name: settings.task}).items():
        evaluation = TaskEvaluation(
            dataclasses.replace(settings, task=task),
            inputs,
            embedder,
            step,
            split,
            head=None if probes else head,
            held_out=held_out,
            trivial_baselines=trivial_baselines,
            classical=classical,
        )
        for corruption in corruptions:
            report = evaluation.report(corruption)
            yield dataclasses.replace(report, task=name, external=external)


def elsewhere(own: Inputs, held_out: Sequence[ShardSet], train: str) -> tuple[Inputs, Inputs]:
    """What a pretrained run is measured on, and what its constant prediction is counted over.

    That is the training split of these data sets too, or the run's own where they have none.
    """
    if any(shards.info.products.get(train) for shards in held_out):
        inputs = own._replace(
            shard_sets=held_out, vocabulary=ValueVocabulary.merge(s.values for s in held_out)
        )
        return inputs, inputs
    # How frequent a value is follows from training alone; those of the held-out items are ranked.
    more = [{p: dict.fromkeys(v, 0) for p, v in s.values.items()} for s in held_out]
    vocabulary = ValueVocabulary.merge([*(s.values for s in own.shard_sets), *more])
    own = own._replace(vocabulary=vocabulary)
    return own._replace(shard_sets=held_out), own


def _with_data(settings: Settings, **changes: Any) -> Settings:
    return dataclasses.replace(settings, data=dataclasses.replace(settings.data, **changes))


def relocate_data(data: Data, meta: Meta, trained_on: Sequence[str], tokenizer: str) -> Data:
    """A run's data, where its shards or its tokenizer, if named, lie now.

    Raises UserError where the run was trained on other items. Its pairs are not compared.
    """
    found = [open_shards(folder).info.fingerprint for folder in trained_on]
    if found and found != list(meta.data):
        raise UserError(
            f"--trained_on={','.join(trained_on)}: the run was trained on other data sets, or on "
            "these in another order"
        )
    return dataclasses.replace(
        data, sources=tuple(trained_on) or data.sources, tokenizer=tokenizer or data.tokenizer
    )


def open_run_data(data: Data, meta: Meta, workdir: epath.Path) -> Inputs:
    """A run's data; raises UserError where they are gone, or the vocabulary is not the run's."""
    try:
        inputs = open_inputs(data)
    except UserError as error:
        raise UserError(
            f"{error} (seen from {pathlib.Path.cwd()}). The run in {workdir} was trained on it: "
            "--trained_on and --tokenizer name where shards and tokenizer are now"
        ) from error
    if inputs.tokenizer.fingerprint != meta.vocabulary:
        raise UserError(f"--tokenizer: another vocabulary than that of the run in {workdir}")
    return inputs


def open_source(source: str, own: ShardSet, workdir: epath.Path) -> ShardSet:
    """Opens shards; of a folder with a products.jsonl, shards that are built from it.

    They are built once, and again when the folder has changed, in the run's folder, with the
    picture sizes and the classes of `own`, a data set of the run's. Raises UserError.
    """
    folder = epath.Path(source)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{source} is a file: name the folder that it lies in")
    if not (folder / PRODUCTS).exists():
        try:
            return open_shards(folder)
        except UserError as error:
            raise UserError(f"{folder} holds neither {PRODUCTS} nor shards: {error}") from error
    how = {"patch_size": own.info.patch_size, "codebook": str(own.folder)}
    if own.info.front_end == "regions":
        if not own.info.backbone.model:
            raise UserError(
                f"{source} is a catalog without region features, and the run reads regions: name "
                "shards, python -m launch.build_shards --front_end=regions"
            )
        how = {"front_end": "regions", "top_classes": own.info.top_classes}
    arguments = BuildArguments(
        "jsonl",
        source,
        str(workdir / "catalogues" / digest(source, own.info.fingerprint)),
        image_size=own.info.image_size,
        vocabulary_size=0,  # the run has its own
        **how,
    )
    if not arguments.folder.exists():
        # Another process may build it meanwhile: a folder gets its name when it is whole.
        with contextlib.suppress(FileExistsError), tempfile.TemporaryDirectory() as folder:
            if own.info.front_end == "regions":
                eyes, catalog = open_identical(own.info.backbone), open_catalog("jsonl", source)
                extract(eyes, catalog, pathlib.Path(folder), BATCH, workers=0)
                arguments = dataclasses.replace(arguments, region_features=folder)
            return build(arguments, alone=False)
    return open_shards(arguments.folder)


def digest(source: epath.PathLike, salt: str = "") -> str:
    """Of a folder of products as it is now: the names and contents of all files in it."""
    folder, found = epath.Path(source), hashlib.blake2b(salt.encode(), digest_size=8)
    for path in _files(folder):
        name, data = str(path.relative_to(folder)), path.read_bytes()
        found.update(f"{name}\0{len(data)}\0".encode(errors="surrogateescape"))
        found.update(data)
    return found.hexdigest()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder, in a fixed order; epath can't search folders of folders."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        elif path.exists():  # else a link to nothing
            yield path
