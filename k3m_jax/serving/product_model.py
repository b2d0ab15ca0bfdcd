"""A pretrained model as a library call: products to records, and records to vectors."""

import contextlib
import functools
import hashlib
import itertools
import json
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from k3m_jax import modalities
from k3m_jax.data.catalog.region_features import make_regions, region_limit
from k3m_jax.data.input.batch import Batch, BatchLayout, ExampleBuilder
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.records import ALLOWED_REPAIRS, ItemView, Product, Record
from k3m_jax.modalities import pixels
from k3m_jax.modalities.base import Array, InvalidRecordError
from k3m_jax.modalities.knowledge import CANDIDATE_ARRAYS, CandidateTexts
from k3m_jax.modalities.picture import Picture
from k3m_jax.model.network import Network, Params
from k3m_jax.objectives.link_prediction import LinkPrediction, energy
from k3m_jax.pretrained.vision import VisionBackbone, open_identical
from k3m_jax.pretrained.weights_file import WEIGHTS, fit, read_weights
from k3m_jax.settings import Settings, UserError
from k3m_jax.settings.presets import PRESETS

VERSION = 2  # of the format of an exported folder, see `export`
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
# Rows computed at a time: calls are cut and filled up to these, so that a model compiles few times.
ROWS = (1, 8, 64)


def embed(network: Network, params: Params, products: Batch) -> jax.Array:
    """Products, `BatchLayout.products` of B rows -> their embeddings c* [B, D], float32."""
    if network.rows_independent:
        return network.embed(params, products)
    # As if each were the only row, a product has one embedding, in whatever row.
    alone = jax.tree.map(lambda x: x[:, None], products)
    return jax.vmap(functools.partial(network.embed, params))(alone)[:, 0]


def link_scores(
    network: Network, params: Params, embeddings: jax.Array, triples: Mapping[str, jax.Array]
) -> jax.Array:
    """How well each triple fits each product: the negated energy `−‖c* + p − v‖`, high is likely.

    Embeddings c* [B, D] and Q texts, the arrays of `CandidateTexts` by name -> [B, Q], float32.
    """
    p, v = network.encode_candidates(params, triples)
    return -energy(embeddings[:, None], p, v, network.settings.objectives.lpm.norm)


def functions(network: Network) -> dict[str, tuple[Callable[..., jax.Array], tuple[Any, ...]]]:
    """The functions (params, *arguments) of a model by name, each with its arguments.

    An argument is an `Array`, its rows B or Q included, or a dict of them.
    """

    def rows(letter: str, array: Array, shape: tuple[int, ...]) -> Array:
        return Array((letter, *shape), np.dtype(array.dtype).name, array.meaning)

    s = network.settings
    products = {n: rows("B", a, a.shape) for n, a in BatchLayout.for_inference(s).products.items()}
    found = {"embed": (functools.partial(embed, network), (products,))}
    if LinkPrediction.name in PRESETS[s.model.preset].objectives:  # it learned to score triples
        embeddings = Array(("B", s.model.text.width), "float32", "what `embed` returns")
        texts, triples = LinkPrediction.from_settings(s).arrays, {}
        for name in CANDIDATE_ARRAYS:
            array = texts[f"link_{name}"]
            triples[name] = rows("Q", array, array.shape[1:])  # instead of an item's J
        found["link_scores"] = functools.partial(link_scores, network), (embeddings, triples)
    return found


class ProductModel:
    """A pretrained K3M, see `from_pretrained`: `network`, `params`, `tokenizer` and `width`, D."""

    def __init__(
        self, network: Network, params: Params, tokenizer: Tokenizer, backbone_folder: str = ""
    ):
        """Places `params` on the default device; functions are compiled at their first use.

        `backbone_folder` is where the frozen model of its regions is, if not at its own name.
        """
        self._backbone_folder = backbone_folder
        settings = network.settings
        self.network, self.tokenizer = network, tokenizer
        self.params, self.width = jax.device_put(params), settings.model.text.width
        self._functions = {name: jax.jit(each) for name, (each, _) in functions(network).items()}
        self._image = settings.image
        self._layout = BatchLayout.for_inference(settings)
        self._build = ExampleBuilder(self._layout, tokenizer, strict=True)

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
        while (part := list(itertools.islice(records, ROWS[-1]))) or running:
            previous, running = running, None
            if part:  # the device computes it while the next is prepared
                arrays = self.arrays(part, _rows(len(part)), first)
                running = self._functions["embed"](self.params, arrays), len(part)
            if previous:
                yield np.asarray(previous[0])[: previous[1]]
            first += len(part)

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
            candidates = {name: _filled(array[q : q + ROWS[-1]]) for name, array in texts.items()}
            products = _filled(embeddings[n : n + ROWS[-1]])
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


def from_pretrained(folder: epath.PathLike, backbone_folder: str = "") -> ProductModel:
    """Opens a folder, local or remote, that `python -m launch.export` wrote.

    `backbone_folder` is where the frozen model of its regions is, if not at its own name. Raises
    UserError: there is none, of a newer format, or something in it is missing or changed.
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
    return ProductModel(network, params, Tokenizer.load(folder), backbone_folder)


def config_digest(config: Mapping[str, Any]) -> str:
    """Of the content of a config.json, but for what it says of this digest itself."""
    content = {key: value for key, value in config.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _rows(count: int) -> int:
    return next(rows for rows in ROWS if rows >= count)


def _filled(array: np.ndarray) -> np.ndarray:
    """At most the largest of `ROWS` rows, filled up with zeros to one of them."""
    padding = _rows(len(array)) - len(array)
    return np.pad(array, [(0, padding), *[(0, 0)] * (array.ndim - 1)])
