"""A pretrained model as a library call: products to records, and records to vectors."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from k3m_jax import modalities
from k3m_jax.data.catalog.region_features import make_regions, region_limit
from k3m_jax.data.input.batch import BatchLayout, ExampleBuilder
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.records import ALLOWED_REPAIRS, ItemView, Product, Record
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities import pixels
from k3m_jax.modalities.base import InvalidRecordError
from k3m_jax.modalities.knowledge import CandidateTexts
from k3m_jax.modalities.picture import Picture
from k3m_jax.model.network import Network, Params, flat
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.parallel.shardings import batch_sharding, replicated
from k3m_jax.pretrained.vision import VisionBackbone, open_identical
from k3m_jax.pretrained.weights_file import WEIGHTS, fit, read_weights
from k3m_jax.serving import answers
from k3m_jax.serving.answers import ExportedHead
from k3m_jax.serving.functions import functions
from k3m_jax.settings import Mesh, Settings, UserError
from k3m_jax.training.task_network import HEAD, Head

VERSION = 2  # of the format of an exported folder, see `export`
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
HEAD_WEIGHTS, VALUES = "head.safetensors", "values.json"
# Rows computed at a time: calls are cut and filled up to these, so that a model compiles few times.
ROWS = (1, 8, 64)


class ProductModel:
    """A pretrained K3M, see `from_pretrained`: `network`, `params`, `tokenizer` and `width`, D.

    `head` is that of a fine-tuned run, and `values` are all values of each property that it knows;
    None where the model was exported without.
    """

    def __init__(
        self,
        network: Network,
        params: Params,
        tokenizer: Tokenizer,
        backbone_folder: str = "",
        *,
        head: ExportedHead | None = None,
        values: ValueVocabulary | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Places `params` on `devices`, over which rows are split; None is the default one alone.

        Functions are compiled at their first use. `backbone_folder` is where the frozen model of
        its regions is, if not at its own name.
        """
        self._backbone_folder = backbone_folder
        settings = network.settings
        self.network, self.tokenizer, self.width = network, tokenizer, settings.model.text.width
        self.head, self.values = head, values
        self._mesh = make_mesh(Mesh(data=-1), devices or jax.local_devices()[:1])
        self.params = jax.device_put(params, replicated(self._mesh))
        self.head_params = jax.device_put(head.params, replicated(self._mesh)) if head else {}
        found = functions(network, head and head.task)
        self._functions = {name: jax.jit(each) for name, (each, _) in found.items()}
        self._image = settings.image
        self._layout = BatchLayout.for_inference(settings)
        self._build = ExampleBuilder(self._layout, tokenizer, strict=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of settings and parameters."""
        digest = hashlib.blake2b(self.network.settings.to_json().encode(), digest_size=16)
        digest.update(json.dumps(self.head and dataclasses.asdict(self.head.task)).encode())
        for name, x in sorted(flat({**self.params, HEAD: self.head_params}).items()):
            digest.update(name.encode() + np.ascontiguousarray(x).tobytes())
        return digest.hexdigest()

    @property
    def scores_links(self) -> bool:
        """Whether it was trained to score single triples."""
        return "link_scores" in self._functions

    def record(
        self,
        id: str,
        *,
        picture: bytes | None = None,
        regions: Mapping[str, np.ndarray] | None = None,
        **parts: Any,
    ) -> Record:
        """The record of one product, cleaned and shrunk as `build_shards` does it.

        Args:
          id: for messages: UserErrors about unknown keys, pictures that are no bytes and regions
            that don't fit, and warnings about what could not be used and was left out.
          picture: the bytes of a picture's file; a model of regions needs its `backbone` for it.
          regions: the raw arrays of `data.catalog.region_features`, for a model of regions.
          **parts: the other modalities under their keys of a catalog: `title`, a text; `triples`,
            (property, value) pairs; … Any part may be None or empty: absent.
        """
        keys = {key for m in modalities.REGISTRY.values() for key in m.keys if m.name != "image"}
        if unknown := parts.keys() - keys:
            known = ", ".join(sorted(keys | {"picture", "regions"}))
            raise UserError(f"record {id!r}: unknown key {min(unknown)!r}; there are {known}")
        if regions is not None and (picture is not None or self._image.front_end == "patches"):
            raise UserError(f"record {id!r}: regions are for a model of regions, without a picture")
        if not isinstance(picture, bytes | None):
            kind = type(picture).__name__
            raise UserError(f"record {id!r}: picture is {kind}, not the bytes of a picture's file")

        def stored(*_: Any) -> Picture:
            try:
                return self._stored(picture, regions)
            except InvalidRecordError as error:
                if regions:
                    raise UserError(f"record {id!r}: {error.reason}: {error.detail}") from error
                raise

        try:
            product = Product.parse({**parts, "id": id, "images": ["picture"]})
        except InvalidRecordError as error:
            raise UserError(f"record {id!r}: {error.reason}: {error.detail}") from error
        repairs = list(product.repairs)
        record = product.record(types.SimpleNamespace(picture=stored), repairs)
        for repair in repairs:
            if repair not in ALLOWED_REPAIRS:
                warnings.warn(f"record {id!r}: {repair}", stacklevel=2)
        return record

    @functools.cached_property
    def backbone(self) -> VisionBackbone:
        """The frozen model that makes regions of pictures; UserError where it can't be opened."""
        return open_identical(self._image.backbone, self._backbone_folder)

    def arrays(self, records: Sequence[Record], rows: int, first: int = 0) -> dict[str, np.ndarray]:
        """`BatchLayout.products` of records, filled up to `rows`; errors count from `first` on."""
        examples, rng = [None] * rows, np.random.default_rng(0)  # nothing is drawn
        for row, record in enumerate(records):
            try:
                examples[row] = self._build(ItemView.of(record), rng)
            except Exception as error:  # decoders of broken pictures raise nearly anything
                name = getattr(record, "id", f"{type(record).__name__}, not of model.record(…)")
                raise UserError(f"records[{first + row}] ({name}): {error}") from error
        return self._layout.collate(examples)

    def embed(self, records: Iterable[Record]) -> np.ndarray:
        """Embeddings of products, float32 [N, D], in the order of `records`.

        `record` makes records, and a `ShardSet.source` gives them; any modality may be absent.
        Raises UserError for a record that can't be used, by its index.
        """
        return np.concatenate([np.zeros((0, self.width), np.float32), *self.embed_parts(records)])

    def embed_parts(self, records: Iterable[Record]) -> Iterator[np.ndarray]:
        """The same of more products than memory holds, part by part, `records` read as needed."""
        records, first, running = iter(records), 0, None
        size, sharding = self.rows(ROWS[-1]), batch_sharding(self._mesh)
        while (part := list(itertools.islice(records, size))) or running:
            previous, running = running, None
            if part:  # the device computes it while the next is prepared
                arrays = self.arrays(part, self.rows(len(part)), first)
                arrays = jax.device_put(arrays, sharding)
                running = self._functions["embed"](self.params, arrays), len(part)
            if previous:
                yield np.asarray(previous[0])[: previous[1]]
            first += len(part)

    def rows(self, count: int) -> int:
        """How many rows are computed for `count`, no more than the most at a time."""
        devices = self._mesh.size
        return next(rows * devices for rows in ROWS if rows * devices >= count or rows == ROWS[-1])

    def classify(self, records: Iterable[Record], k: int = 1) -> list[answers.Scored]:
        """The k most probable classes of each product, with their probabilities, best first.

        By the head of a run that was fine-tuned for classification, from what its task shows of a
        product; UserError without one.
        """
        names = self.require_head("classification").task.classes
        parts = answers.class_probabilities(self, records)
        return [answers.best(names, row, k) for part in parts for row in part]

    def complete(self, record: Record, property: str, k: int = 5) -> answers.Scored:
        """The k best of all known values of a property for a product, with scores, best first.

        The product is shown without its triples of the property. Raises UserError for a property
        that has no values, or where the model has nothing to rank them by.
        """
        view = self.completion.view(record, property)
        names, scores = self.completion.scores(self.embed([view]), property)
        return answers.best(names, scores[0], k)

    def same_product(self, pairs: Sequence[tuple[Record, Record]]) -> np.ndarray:
        """The probability that the items of each pair are one product, float32 [N].

        By the head of a run that was fine-tuned for alignment, which shows of the first and of the
        second item what its task does; UserError without one.
        """
        task, sides = self.require_head("alignment").task, ("first", "second")
        views = [
            [answers.as_shown(task, pair[i], (), s) for pair in pairs] for i, s in enumerate(sides)
        ]
        logits = answers.pair_logits(self, *map(self.embed, views))
        return np.exp(-np.logaddexp(0, -logits))

    @functools.cached_property
    def completion(self) -> answers.Completion:
        """What ranks the values of properties; raises UserError where nothing can."""
        return answers.Completion(self)

    def require_head(self, task: str) -> ExportedHead:
        """The head; raises UserError where the model has none, or that of another task."""
        if not self.head or self.head.task.name != task:
            found = f"one of {self.head.task.name}" if self.head else "none"
            hint = f"export a run that was fine-tuned for it (configs/finetune_{task}.py)"
            raise UserError(
                f"a head of the task {task} is needed, and the model has {found}: {hint}"
            )
        return self.head

    def call(self, name: str, *embeddings: np.ndarray) -> np.ndarray:
        """The function `name` of the head, of embeddings [N, D] alone."""
        params, found = {**self.params, HEAD: self.head_params}, []
        for start in range(0, len(embeddings[0]), size := self.rows(ROWS[-1])):
            parts = [x[start : start + size] for x in embeddings]
            filled = (_filled(part, self.rows(len(part))) for part in parts)
            found.append(np.asarray(self._functions[name](params, *filled))[: len(parts[0])])
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def link_scores(self, embeddings: np.ndarray, triples: Sequence[tuple[str, str]]) -> np.ndarray:
        """How well each (property, value) fits each product: `−‖c* + p − v‖`, high is likely.

        N embeddings of `embed` and Q triples -> float32 [N, Q]. Scores compare values of one
        property, and test nothing of a product that was embedded with the triple. Raises UserError
        where either is something else, or the model was not trained by link prediction.
        """
        s = self.network.settings
        if "link_scores" not in self._functions:
            preset = s.model.preset
            raise UserError(f"link_scores: model.preset {preset!r} has no score of a single triple")
        if (shape := np.shape(embeddings))[1:] != (self.width,):
            raise UserError(f"link_scores: embeddings of the shape {shape}, not [N, {self.width}]")
        if not np.isfinite(embeddings).all():
            raise UserError("link_scores: embeddings hold NaN or infinity")
        for triple in triples:
            if isinstance(triple, str) or [isinstance(x, str) for x in triple] != [True, True]:
                raise UserError(f"link_scores: {triple!r:.60} is not a (property, value) pair")
        texts = vars(CandidateTexts.write(triples, self.tokenizer, s.lengths.candidate))
        scores = np.zeros((len(embeddings), len(triples)), np.float32)
        starts = (range(0, size, ROWS[-1]) for size in scores.shape)
        for n, q in itertools.product(*starts):
            part = scores[n : n + ROWS[-1], q : q + ROWS[-1]]
            texts_part = {name: array[q : q + ROWS[-1]] for name, array in texts.items()}
            candidates = {name: _filled(x, _rows(len(x))) for name, x in texts_part.items()}
            products = embeddings[n : n + ROWS[-1]]
            products = _filled(products, _rows(len(products)))
            found = self._functions["link_scores"](self.params, products, candidates)
            part[...] = np.asarray(found)[: part.shape[0], : part.shape[1]]
        return scores

    def _stored(self, picture: bytes | None, regions: Mapping[str, Any] | None) -> Picture:
        if picture and self._image.front_end == "patches":
            return Picture(pixels.shrink(picture, self._image.side, square=True))
        if picture:
            size = self.backbone.identity.size
            (regions,) = self.backbone(pixels.squeeze(picture, size)[None])
        try:
            raw = {name: np.asarray(array) for name, array in (regions or {}).items()}
        except (ValueError, TypeError, AttributeError) as error:  # ragged, or no mapping
            raise InvalidRecordError("bad_regions", f"arrays by name expected: {error}") from error
        limit = region_limit(self._image.backbone)
        found = make_regions(raw, limit, self._image.top_classes) if raw else None
        return found or Picture()


def from_pretrained(
    folder: epath.PathLike,
    backbone_folder: str = "",
    *,
    devices: Sequence[jax.Device] | None = None,
) -> ProductModel:
    """Opens a folder, local or remote, that `python -m launch.export` wrote.

    `backbone_folder` is where the frozen model of its regions is, if not at its own name. Rows are
    split over `devices`; None is the default one alone. Raises UserError: there is no such folder,
    it is of a newer format, or something in it is missing or changed.
    """
    folder = epath.Path(folder)
    path, tokenizer, weights = (folder / name for name in (CONFIG, TOKENIZER, WEIGHTS))
    config = None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
        config = json.loads(path.read_text(encoding="utf-8"))
    match config:
        case {"format": "k3m_jax", "version": int(version), "settings": dict(chosen)}:
            if version > VERSION:
                newer = f"version {version} of the format, above {VERSION}"
                raise UserError(f"{folder} has {newer}: install a newer k3m_jax")
        case _:
            raise UserError(f"{folder} is not a model exported by k3m_jax: no valid {path}")
    if config.get("config_sha256", digest := config_digest(config)) != digest:
        raise UserError(f"{path} is damaged, or was changed: export the model again")
    digest = hashlib.sha256(tokenizer.read_bytes() if tokenizer.exists() else b"").hexdigest()
    if digest != config.get("tokenizer_sha256"):
        raise UserError(f"{tokenizer} is not the one that was exported: export the model again")
    network = Network(Settings.from_config(chosen))
    params = fit(read_weights(weights, config.get("weights_seal"))[0], network, weights)
    head = values = None
    if described := config.get("head"):
        task = Settings.from_config({**chosen, "task": described["task"]}).task
        shapes = Head(task, network.settings.model.text.width)
        read = read_weights(folder / HEAD_WEIGHTS, described["seal"])[0]
        head_params = fit(read, shapes, folder / HEAD_WEIGHTS)
        head = ExportedHead(task, head_params, described["threshold"])
    if (folder / VALUES).exists():
        table = json.loads((folder / VALUES).read_text(encoding="utf-8"))
        values = ValueVocabulary.merge([table])
    words = Tokenizer.load(folder)
    own = {"head": head, "values": values, "devices": devices}
    return ProductModel(network, params, words, backbone_folder, **own)


def config_digest(config: Mapping[str, Any]) -> str:
    """Of the content of a config.json, but for what it says of this digest itself."""
    content = {key: value for key, value in config.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _rows(count: int) -> int:
    return next(rows for rows in ROWS if rows >= count)


def _filled(array: np.ndarray, rows: int) -> np.ndarray:
    """Filled up with zeros to so many rows."""
    return np.pad(array, [(0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)])
