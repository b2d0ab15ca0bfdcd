"""An HTTP service over an exported folder: embed, complete, classify, neighbours (docs/serving.md).

Bodies are JSON. A product is `id` (optional), `title`, `triples` and `picture`, the base64 of a
picture's file; any may be missing. A mistake is answered by 400 and {"error": …}, which names the
product; a request that is too large by 413, one that finds too many waiting by 503.
"""

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from k3m_jax.applications.batching import Batcher, BusyError
from k3m_jax.applications.neighbours import Items, VectorIndex, unit
from k3m_jax.data.records import Record
from k3m_jax.serving import answers
from k3m_jax.serving.product_model import ROWS, ProductModel
from k3m_jax.settings import UserError
from k3m_jax.tasks.classification import hidden_properties


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may ask for."""

    products: int = 64  # of a request
    bytes: int = 16 << 20  # of its body
    waiting: int = 1024  # products of all requests
    k: int = 1000


class RequestError(Exception):
    """A request that can't be answered: an HTTP status, and why."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Service:
    """The answers to requests; `items` is a catalogue to find neighbours in."""

    def __init__(self, model: ProductModel, items: Items | None = None, limits: Limits = Limits()):
        """Compiles what requests need, so that none waits for it."""
        self.model, self.items, self.limits = model, items, limits
        self.index = VectorIndex(items.vectors) if items else None
        for rows in ROWS:
            model.embed([model.record("warm-up")] * rows)
        self.batcher = Batcher(model.embed, ROWS[-1], limits.waiting)
        with contextlib.suppress(UserError):  # neither head nor energy
            for name in model.completion.properties:
                model.completion.scores(np.zeros((1, model.width), np.float32), name)

    async def embed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """{"products": […]} -> {"vectors": [[D numbers], …]}."""
        records = await self._records(body)
        return {"vectors": (await self._vectors(records)).tolist()}

    async def classify(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """{"products": […], "k": 1} -> {"classes": [[[name, probability], …], …]}."""
        task, k = self.model.require_head("classification").task, self._k(body, 1)
        records, hidden = await self._records(body), hidden_properties(task)
        c = await self._vectors([answers.as_shown(task, r, hidden) for r in records])
        rows = await asyncio.to_thread(self.model.call, "classify", c)
        return {"classes": [answers.best(task.classes, row, k) for row in rows]}

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """{"products": […], "property": name, "k": 5} -> {"values": [[[value, score], …], …]}."""
        name, k, completion = body.get("property"), self._k(body, 5), self.model.completion
        if not isinstance(name, str):
            raise RequestError(400, "property is missing, or no text")
        completion.check([name])
        views = [completion.view(record, name) for record in await self._records(body)]
        c = await self._vectors(views)
        values, scores = await asyncio.to_thread(completion.scores, c, name)
        return {"values": [answers.best(values, row, k) for row in scores]}

    async def neighbours(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """{"products": […], "k": 10} -> {"neighbours": [[[id, cosine], …], …]}."""
        if self.index is None:
            raise RequestError(400, "the service has no catalogue: start it with --vectors")
        k = self._k(body, 10)
        queries = unit(await self._vectors(await self._records(body)))
        scores, rows = await asyncio.to_thread(self.index.search, queries, k)
        ids = self.items.ids
        found = zip(scores.tolist(), rows.astype(int).tolist(), strict=True)
        return {"neighbours": [[(ids[r], s) for s, r in zip(*pair, strict=True)] for pair in found]}

    async def _vectors(self, records: Sequence[Record]) -> np.ndarray:
        try:
            return await asyncio.wrap_future(self.batcher.submit(records))
        except BusyError as error:
            raise RequestError(503, f"too busy: {error}") from error

    async def _records(self, body: Mapping[str, Any]) -> list[Record]:
        products = body.get("products")
        if not isinstance(products, list) or not products:
            raise RequestError(400, "products is missing, or no list of products")
        if len(products) > self.limits.products:
            most = self.limits.products
            raise RequestError(413, f"{len(products)} products in a request; at most {most}")
        return await asyncio.to_thread(lambda: [*map(self._record, range(len(products)), products)])

    def _record(self, number: int, product: Any) -> Record:
        if not isinstance(product, dict):
            raise RequestError(400, f"products[{number}] is no object")
        parts = dict(product)
        name, picture = str(parts.pop("id", number)), parts.pop("picture", None)
        try:
            data = base64.b64decode(picture, validate=True) if picture else None
        except (binascii.Error, TypeError, ValueError) as error:
            reason = f"products[{number}]: picture is no base64: {error}"
            raise RequestError(400, reason) from error
        try:
            return self.model.record(name, picture=data, **parts)
        except (UserError, TypeError) as error:  # a key may be that of another argument
            raise RequestError(400, f"products[{number}]: {error}") from error

    def _k(self, body: Mapping[str, Any], default: int) -> int:
        k = body.get("k", default)
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= self.limits.k:
            raise RequestError(400, f"k is {k!r:.40}, not a number from 1 to {self.limits.k}")
        return k


def application(service: Service) -> Starlette:
    """The service as an ASGI application: POST /embed, …, GET /health."""

    async def health(request: Request) -> Response:
        model = service.model
        return JSONResponse(
            {
                "status": "ok",
                "model": model.fingerprint,
                "width": model.width,
                "head": model.head and model.head.task.name,
                "items": len(service.items.ids) if service.items else 0,
            }
        )

    def post(name: str) -> Route:
        answer = getattr(service, name)

        async def handle(request: Request) -> Response:
            try:
                return JSONResponse(await answer(await _body(request, service.limits.bytes)))
            except RequestError as error:
                return JSONResponse({"error": str(error)}, error.status)
            except UserError as error:
                return JSONResponse({"error": str(error)}, 400)

        return Route(f"/{name}", handle, methods=["POST"])

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)

    names = ("embed", "classify", "complete", "neighbours")
    return Starlette(routes=[Route("/health", health), *map(post, names)], lifespan=lifespan)


async def _body(request: Request, most: int) -> Mapping[str, Any]:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise RequestError(413, f"more than {most} bytes in a request")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(400, f"the body is {type(body).__name__}, not an object")
    return body
