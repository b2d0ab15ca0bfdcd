"""Measures latency and throughput of a service that launch.serve runs, on products of a dump.

python -m launch.measure_service --input=DUMP [--url=http://localhost:8000/embed]
"""

import base64
import dataclasses
import itertools
import json
from typing import Any

from k3m_jax.applications.load import measure
from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.settings.schema import PositiveInt, option, required
from launch import cli

DIFFERENT = 32  # requests, in turn


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    input: str = required("folder with a products.jsonl and pictures")
    url: str = option("http://127.0.0.1:8000/embed", "what to ask")
    clients: PositiveInt = option(4, "that ask at a time")
    requests: PositiveInt = option(200, "in all")
    products: PositiveInt = option(1, "of a request")
    property: str = option("", "for /complete")


def main(flags: Flags) -> None:
    """Measures and prints."""
    catalog = open_catalog("jsonl", flags.input)

    def product(line: bytes) -> dict[str, Any]:
        fields = json.loads(line)
        found = {key: fields.get(key) for key in ("title", "triples")}
        data = catalog.read_picture((fields.get("images") or [""])[0])
        return found | {"picture": base64.b64encode(data).decode()}

    lines = itertools.islice(catalog.lines(), flags.products * DIFFERENT)
    products = [product(raw.data) for raw in lines]
    starts = range(0, len(products), flags.products)
    parts = (products[start : start + flags.products] for start in starts)
    bodies = [{"products": part, "property": flags.property} for part in parts]
    print(measure(flags.url, bodies, clients=flags.clients, requests=flags.requests))


if __name__ == "__main__":
    cli.run(main)
