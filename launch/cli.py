"""How every entry point starts: a mistake of the user's is one line on stderr, not a traceback."""

import sys
import traceback
from collections.abc import Callable

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from k3m_jax.data.store import remote
from k3m_jax.settings import Distributed, Settings, UserError

EXIT_USER_ERROR = 2


def run(main: Callable[[list[str]], int | None], **absl_options) -> None:
    """Runs `main` under absl; a `UserError` is printed as one line and exits with 2."""

    def guarded(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)  # of libraries that tell of each file and device
        try:
            return main(argv)
        except UserError as error:
            return _complain(str(error))
        except ImportError as error:
            if remote.is_lack_of_client(error):
                return _complain(f"{error} (docs/data.md); for gs:// requirements-gcs.txt has all")
            raise

    app.run(guarded, flags_parser=_parse_flags, **absl_options)


def read_settings(config: flags.FlagHolder) -> Settings:
    """The settings of a `config_flags.DEFINE_config_file` flag.

    Raises:
      UserError: the file does not exist, or what `Settings.from_config` says of it.
    """
    if not isinstance(config.value, ml_collections.ConfigDict):
        path = config_flags.get_config_filename(flags.FLAGS[config.name])
        raise UserError(f"--{config.name}={path}: there is no such file")
    return Settings.from_config(config.value)


def read_distributed(group: flags.FlagHolder) -> Distributed:
    """Of a `config_flags.DEFINE_config_dict` flag that is a `distributed` alone; as above."""
    return Settings.from_config({"distributed": group.value.to_dict()}).distributed


def checkpoint(which: flags.FlagHolder) -> int | str:
    """A `--checkpoint`: best, latest, or a step."""
    return int(which.value) if which.value.isdecimal() else which.value


def _parse_flags(argv: list[str]) -> list[str]:
    """As absl does, but whatever is wrong with a flag or a setting is one line."""
    try:
        return flags.FLAGS(argv)
    except UserError as error:
        sys.exit(_complain(str(error)))
    except flags.Error as error:
        sys.exit(_complain(f"{' '.join(str(error).split())}; --help tells more"))
    except OSError as error:  # a setting of a file that could not be read
        sys.exit(_complain(f"--config: {' '.join(str(error).split())}"))
    except (AttributeError, KeyError) as error:  # a setting that does not exist
        inner = error.args[0] if error.args else type(error).__name__
        reason = str(inner.args[0] if isinstance(inner, KeyError) else inner)
        frames = traceback.extract_tb(error.__traceback__)
        last = [frame for frame in frames if "site-packages" not in frame.filename][-1]
        where = "--config" if last.filename == __file__ else f"{last.filename}:{last.lineno}"
        sys.exit(_complain(f"{where}: unknown setting {'; '.join(reason.splitlines())}"))


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR
