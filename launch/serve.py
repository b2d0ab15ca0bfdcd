"""Serves an exported model over HTTP: embed, complete, classify, neighbours.

  pip install -r requirements-serve.txt
  python -m launch.serve --model=FOLDER [--vectors=vectors --port=8000]
  curl localhost:8000/embed -d '{"products": [{"title": "red dress"}]}'

POST /embed, /classify, /complete, /neighbours; GET /health once it is ready (docs/serving.md).
"""

import dataclasses

import jax

from k3m_jax.serving import from_pretrained
from k3m_jax.settings import UserError
from k3m_jax.settings.schema import NonNegativeInt, PositiveInt, option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    model: str = required("folder that launch.export wrote")
    vectors: str = option("", "folder that launch.embed wrote, to find neighbours in")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 is all")
    port: NonNegativeInt = option(8000, "port to listen on")
    products: PositiveInt = option(64, "of a request, at most")
    megabytes: PositiveInt = option(16, "of a request's body, at most")
    waiting: PositiveInt = option(1024, "products that wait, at most; more are answered by 503")


def main(flags: Flags) -> None:
    """Compiles, then serves until it is stopped."""
    try:
        import uvicorn

        from k3m_jax.applications.neighbours import Items
        from k3m_jax.applications.service import Limits, Service, application
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        hint = "pip install -r requirements-serve.txt"
        raise UserError(f"{error.name} is not installed: {hint}") from error
    model = from_pretrained(flags.model, jax.local_devices())
    items = Items.read(flags.vectors) if flags.vectors else None
    limits = Limits(flags.products, flags.megabytes << 20, flags.waiting)
    app = application(Service(model, items, limits))
    uvicorn.run(app, host=flags.host, port=flags.port, log_level="warning")


if __name__ == "__main__":
    cli.run(main)
