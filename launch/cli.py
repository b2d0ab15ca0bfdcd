"""How every entry point starts: a mistake of the user's is one line on stderr, not a traceback."""

import sys
from collections.abc import Callable

from absl import app

from k3m_jax.settings import UserError

EXIT_USER_ERROR = 2


def run(main: Callable[[list[str]], int | None], **absl_options) -> None:
    """Runs `main` under absl; a `UserError` is printed as one line and exits with 2."""

    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR

    app.run(guarded, **absl_options)
