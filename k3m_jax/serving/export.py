"""The folder of an exported model, written from a run's checkpoint: it needs neither afterwards.

    config.json                    format and version, settings, functions with their arguments
    model.safetensors              parameters under our names, float32
    tokenizer.json, …              what transformers' AutoTokenizer opens
    head.safetensors               a fine-tuned run's head, if it is one
    values.json                    property -> value -> training items that have it
    embed.jax_export, …            functions as artefacts of `jax.export`
    preprocess.py, preprocessing/  products to arrays without k3m_jax
    README.md                      the model card

The artefacts hold StableHLO alone, of any number of rows: the weights are their first argument. A
change that an older reader would misread gets another `VERSION`; `from_pretrained` reads all.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax import export

from k3m_jax import modalities, objectives, settings
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store import remote
from k3m_jax.data.store.shards import BuildInfo, open_shards
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation.report import markdown_table, markdown_text
from k3m_jax.modalities.base import Array
from k3m_jax.model.network import Network, Params, nested
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.pretrained.weights_file import WEIGHTS, write_weights
from k3m_jax.runs.task_evaluation import THRESHOLD
from k3m_jax.serving import answers, preprocess
from k3m_jax.serving.answers import ExportedHead
from k3m_jax.serving.functions import functions
from k3m_jax.serving.product_model import (
    CONFIG,
    HEAD_WEIGHTS,
    TOKENIZER,
    VALUES,
    VERSION,
    config_digest,
)
from k3m_jax.settings import Settings, UserError
from k3m_jax.settings.presets import PRESETS
from k3m_jax.training.checkpoints import Meta, Which, load_meta, load_params
from k3m_jax.training.task_network import HEAD, Head, network_of, split_params

PACKAGE = "preprocessing"  # of the modalities' files in a folder
PLATFORMS = ("cpu", "cuda", "tpu")


def export_run(
    workdir: epath.Path,
    output: epath.Path,
    *,
    which: Which,
    platforms: Sequence[str],
    sources: Sequence[str] = (),
    tokenizer: str = "",
) -> None:
    """Writes the folder of a run's model; `sources` and `tokenizer` say where the run's have moved.

    Raises UserError: no such checkpoint, not the run's tokenizer, a full folder, or a baseline.
    """
    remote.check_empty(output)
    meta = load_meta(workdir, which)
    chosen = Settings.from_config(meta.settings)
    if "knowledge" not in PRESETS[preset := chosen.model.preset].modalities:
        raise UserError(f"{workdir} is of model.preset {preset!r}: only K3M itself is exported")
    shard_sets = [open_shards(source) for source in sources]
    for source in () if sources else chosen.data.sources:
        with contextlib.suppress(UserError):  # a run outlives its shards
            shard_sets.append(open_shards(source))
    folders = (tokenizer, chosen.data.tokenizer, *(each.tokenizer_folder for each in shard_sets))
    if not (path := next(filter(None, folders), "")):
        raise UserError("neither the run's shards nor its tokenizer are there: name --tokenizer")
    words = Tokenizer.load(path)
    if words.fingerprint != meta.vocabulary:
        raise UserError(f"--tokenizer: another vocabulary than that of the run in {workdir}")
    params, step = load_params(workdir, which, network_of(chosen), make_mesh(settings.Mesh(data=1)))
    head = values = None
    paths = sorted([*workdir.glob("evaluation-*.json"), *workdir.glob("probe-*.json")])
    found = {path.with_suffix(".md"): json.loads(path.read_text()) for path in paths}
    found = {path: each for path, each in found.items() if each["checkpoint"] == step}
    if chosen.task.downstream:
        params, head_params = split_params(params)
        notes = (each["notes"] for each in found.values() if each["kind"] == "evaluation")
        threshold = next((x[THRESHOLD] for x in notes if THRESHOLD in x), None)
        head = ExportedHead(chosen.task, head_params, threshold)
        chosen = dataclasses.replace(chosen, task=settings.Task())
    if len(shard_sets) == len(meta.data):
        values = ValueVocabulary.merge(shards.values for shards in shard_sets)
    network = Network(chosen).scanned()
    known = {each.info.fingerprint: each.info for each in shard_sets}
    origin = {"step": step, "data": [_described(x, known.get(x)) for x in meta.data]}
    reports = [path.read_text() for path in found]
    card = write_card(network, meta, origin, reports, platforms, head)
    facts = {"platforms": platforms, "origin": origin, "card": card}
    write(output, network, params, words, **facts, head=head, values=values)


def write(
    folder: epath.PathLike,
    network: Network,
    params: Params,
    tokenizer: Tokenizer,
    *,
    platforms: Sequence[str],
    origin: Mapping[str, Any],
    card: str,
    head: ExportedHead | None = None,
    values: ValueVocabulary | None = None,
) -> None:
    """Writes the folder, local or remote; a local one appears when all is in it.

    `origin`, where the model comes from, is kept in config.json; `card` is the text of README.md.
    Raises UserError: the folder is not empty, or an unknown platform.
    """
    with remote.whole_folder(folder) as partial:
        tokenizer.save(partial)
        task = head and head.task
        for name, artefact in artefacts(network, platforms, task).items():
            (partial / f"{name}.jax_export").write_bytes(artefact)
        seal = write_weights(partial / WEIGHTS, params, origin)
        described = None
        if head:
            described = {"task": dataclasses.asdict(task), "threshold": head.threshold}
            described["seal"] = write_weights(partial / HEAD_WEIGHTS, head.params, {})
        if values is not None:
            table = json.dumps(answers.known_values(values), ensure_ascii=False)
            (partial / VALUES).write_text(table + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
        config = {
            "format": "k3m_jax",
            "version": VERSION,
            "origin": origin,
            # Not the vocabulary's fingerprint, which depends on the tokenizers library's version.
            "tokenizer_sha256": hashlib.sha256((partial / TOKENIZER).read_bytes()).hexdigest(),
            "weights_seal": seal,
            "settings": dataclasses.asdict(portable(network.settings)),
            "head": described,
            "modalities": write_preprocessing(partial, network.settings),
            "platforms": list(platforms),
            "jax": jax.__version__,
            "functions": {
                name: jax.tree.map(Array._asdict, arguments, is_leaf=lambda x: isinstance(x, Array))
                for name, (_, arguments) in functions(network, task).items()
            },
        }
        config["config_sha256"] = config_digest(config)
        (partial / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def write_preprocessing(folder: pathlib.Path, chosen: Settings) -> list[str]:
    """Writes preprocess.py and a package of the modalities; returns the names of its classes."""
    classes = [type(modality) for modality in modalities.active(chosen)]
    files = {each: pathlib.Path(inspect.getfile(each)) for each in classes}
    shipped = {*files.values(), *pathlib.Path(modalities.__file__).parent.glob("[!_]*.py")}
    copies = {folder / PACKAGE / path.name: path for path in shipped}
    copies[folder / "preprocess.py"] = pathlib.Path(preprocess.__file__)
    (folder / PACKAGE).mkdir()
    for copy, path in copies.items():
        text = path.read_text(encoding="utf-8").replace("k3m_jax.modalities", PACKAGE)
        copy.write_text(text, encoding="utf-8")
    return [f"{PACKAGE}.{path.stem}.{each.__qualname__}" for each, path in files.items()]


def portable(chosen: Settings) -> Settings:
    """Settings without what means nothing elsewhere: paths of data and weights, the mesh, …"""
    name = pathlib.PurePath(chosen.image.backbone.model).name  # of a folder of this machine
    if pathlib.Path(chosen.image.backbone.model).exists():
        backbone = dataclasses.replace(chosen.image.backbone, model=name)
        image = dataclasses.replace(chosen.image, backbone=backbone)
        chosen = dataclasses.replace(chosen, image=image)
    return dataclasses.replace(
        chosen,
        init_from="",
        data=dataclasses.replace(chosen.data, sources=(), weights=(), tokenizer="", workers=0),
        optimizer=dataclasses.replace(chosen.optimizer, imported_rate=1.0),
        mesh=settings.Mesh(),
        debug=settings.Debug(),
    )


def artefacts(
    network: Network, platforms: Sequence[str], task: settings.Task | None = None
) -> dict[str, bytes]:
    """The functions by name as `jax.export.deserialize` reads them; none without a platform."""
    if unknown := set(platforms) - set(PLATFORMS):
        raise UserError(f"--platforms: {min(unknown)!r} is not one of {', '.join(PLATFORMS)}")
    found, scope = {}, export.SymbolicScope()  # B and Q are the same in all arguments

    def abstract(array: Array) -> jax.ShapeDtypeStruct:
        shape = export.symbolic_shape(",".join(map(str, array.shape)), scope=scope)
        return jax.ShapeDtypeStruct(shape, array.dtype)

    # Lowered code would name the files of its source lines, by paths of this machine.
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        own = functions(network)
        for name, (function, arguments) in functions(network, task).items() if platforms else ():
            jitted = jax.jit(lambda weights, *rest, f=function: f(nested(weights), *rest))
            lower = export.export(jitted, platforms=tuple(platforms))
            shapes = jax.tree.map(abstract, arguments, is_leaf=lambda x: isinstance(x, Array))
            weights = network.abstract_params()
            if name not in own:
                head = Head(task, network.settings.model.text.width).abstract_params()
                weights |= {f"{HEAD}/{part}": x for part, x in head.items()}
            found[name] = bytes(lower(weights, *shapes).serialize())
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
    return found


def write_card(
    network: Network,
    meta: Meta,
    origin: Mapping[str, Any],
    reports: Sequence[str],
    platforms: Sequence[str],
    head: ExportedHead | None = None,
) -> str:
    """The card of a run's model, Markdown; `origin` is what `export_run` says of it."""
    s = network.settings
    *names, last = [modality.name for modality in modalities.active(s)]
    file, side = 'open("dress.jpg", "rb").read()', s.image.side
    image = f"{side} x {side} pixels cut into {s.image.regions} patches"
    picture, product = f"picture={file}", f'"picture": {file}'
    if s.image.front_end == "regions":
        count, width = s.image.regions, s.image.feature_dim
        made = portable(s).image.backbone.model
        image = f"{count} regions of {made or 'a detector'} at most, {width} numbers each"
        picture = picture if made else "regions=arrays"
        product = '"boxes": boxes, "features": features'
    start = "It was trained from scratch."
    if meta.imported is not None:
        source = ", ".join(f"{key} {x}" for key, x in meta.imported.items() if key != "folder")
        start = f"It was initialised from other weights ({source})."
    figures = [f"##{report.rstrip()}" for report in reports]  # titles two levels below
    figures = figures or ["This checkpoint was not measured (`launch.evaluate`, `launch.probe`)."]
    arguments = {name: arrays for name, (_, (*_, arrays)) in functions(network).items()}
    card = pathlib.Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    if "link_scores" not in arguments:
        card = card.partition("\n`link_scores(")[0]
    if head:
        described = f"{answers.CARDS[head.task.name]}\n## Without k3m_jax"
        card = card.replace("## Without k3m_jax", described)
    if not platforms:
        card = card.partition("\n## Without k3m_jax")[0]
    return card.format(
        s=s,
        modalities=f"{', '.join(names)} and {last}",
        image=image,
        parameters=sum(x.size for x in network.abstract_params().values()),
        data=_data(origin["data"], [*names, last]),
        step=origin["step"],
        objectives=", ".join(f"{o.name} {o.weight:g}" for o in objectives.active(s)),
        start=start,
        versions=", ".join(f"{name} {version}" for name, version in meta.versions.items()),
        figures="\n\n".join(figures),
        picture=picture,
        product=product,
        platforms=", ".join(platforms),
        **{f"{name}_arguments": _arguments(arrays) for name, arrays in arguments.items()},
    )


def _data(data: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    rows = [["data set", "products", *(f"without {name}" for name in names), "fingerprint"]]
    for each in data:
        counts = each["missing"] or {}
        products = ", ".join(f"{n:,} {split}" for split, n in (each["products"] or {}).items())
        name = (
            markdown_text(each["name"])
            if each["products"]
            else "not available when this was written"
        )
        missing = (f"{counts[name]:,}" if name in counts else "–" for name in names)
        rows.append([name, products or "–", *missing, f"`{each['fingerprint'][:16]}`"])
    return "\n".join(markdown_table(rows))


def _arguments(arrays: Mapping[str, Array]) -> str:
    shapes = {name: ", ".join(map(str, array.shape)) for name, array in arrays.items()}
    rows = [[f"`{n}`", f"{a.dtype} [{shapes[n]}]", a.meaning] for n, a in arrays.items()]
    return "\n".join(markdown_table([["array", "type and shape", "meaning"], *rows]))


def _described(fingerprint: str, info: BuildInfo | None) -> dict[str, Any]:
    """A data set of the run; all but the fingerprint may be unknown."""
    name = pathlib.PurePath(info.arguments.get("input", "")).name if info else ""
    counts = {key: info and getattr(info, key) for key in ("products", "missing")}
    return {"fingerprint": fingerprint, "name": name, **counts}
