"""How every command reads its flags, prints its help, and reports a mistake of the user's.

A command is a module of `launch/` with a docstring and `main(flags)`, whose parameter is annotated
with a frozen dataclass: a flag per field, with defaults, types, ranges and descriptions as in
`k3m_jax.settings`. By its type a flag is

    Settings             a configuration file, each key a flag, too: --config.training.steps=5
    ConfigDict           the same with another schema, for the command to parse
    another dataclass    a group of settings: --distributed.processes=2
    tuple[str, ...]      a list, separated by commas
    list[str]            a flag that may be repeated
"""

import contextlib
import dataclasses
import faulthandler
import importlib
import os
import select
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections
from absl import flags, logging
from fsspec.registry import known_implementations
from ml_collections import config_flags

import k3m_jax.reproductions  # noqa: F401  (registers the preset `release`)
from k3m_jax.data.store.disk import FAILING, MISPLACED, disk_failure
from k3m_jax.parallel.distributed import EXIT_DISK_ERROR
from k3m_jax.settings import DiskError, Settings, UserError
from k3m_jax.settings.help_text import help_text
from k3m_jax.settings.schema import Setting, parse, settings_of
from k3m_jax.settings.single_entries import quoted

EXIT_USER_ERROR = 2
Main = Callable[[Any], int | None]


def run(main: Main) -> typing.NoReturn:
    """Runs a command as this process, with the process' arguments, and exits with its code."""
    faulthandler.enable()
    flags.FLAGS.mark_as_parsed()  # those of absl and other libraries: all at their defaults
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # of libraries that log each file and device
    try:
        code = _execute(main, sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        poll = select.poll()
        poll.register(sys.stdout, 0)
        if not poll.poll(0):
            raise  # another pipe broke
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Runs a command, such as "launch.pretrain", inside this process; returns its exit code.

    Once jax has started here, a command can join no cluster: pass `distributed.coordinator=off`.
    """
    return _execute(importlib.import_module(name).main, arguments)


def read_settings(path: str) -> Settings:
    """The settings of a configuration file, its `:variant` included.

    Raises:
      UserError: the file does not exist, or what `Settings.from_config` finds wrong.
    """
    flag = Setting("config", Settings, dataclasses.MISSING, "")
    return _parse([flag], ["", f"--config={path}"])["config"]


def _execute(main: Main, arguments: Sequence[str]) -> int:
    schema, code = main.__annotations__["flags"], EXIT_USER_ERROR
    options = settings_of(schema)
    if {"-h", "-help", "--help"} & set(arguments):
        print(help_text(sys.modules[main.__module__].__doc__, options))
        return 0
    try:
        if values := _parse(options, ["", *arguments]):
            return main(schema(**values)) or 0
        return 0
    except UserError as error:
        message, code = str(error), EXIT_DISK_ERROR if isinstance(error, DiskError) else code
    except OSError as error:
        if not (message := disk_failure(error, FAILING | MISPLACED)):
            raise  # a fault of ours
        code = EXIT_DISK_ERROR
    except ImportError as error:
        if str(error) not in {store.get("err") for store in known_implementations.values()}:
            raise  # else the client of a remote store is not installed
        message = f"{error} (docs/data.md); for gs:// requirements-gcs.txt has all"
    print(f"error: {message}", file=sys.stderr)
    return code


def _parse(options: Sequence[Setting], argv: Sequence[str]) -> dict[str, Any] | None:
    """The flags' values by name; None where `--print_config` printed all that is wanted."""
    known = flags.FlagValues()  # not absl's global ones: a process may run several commands
    argv = [quoted(argument, options) for argument in argv]
    config = next((flag for flag in options if flag.kind is Settings), None)
    if config:
        flags.DEFINE_bool("print_config", False, "", flag_values=known)
    with _one_line_errors():
        for flag in options:
            _define(flag, known, argv)
        rest = known(argv)[1:]
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; --help lists the flags")
    printing = config and known.print_config
    for flag in [config] if printing else options:
        if known[flag.name].value in (None, "") and flag.default is dataclasses.MISSING:
            raise UserError(f"--{flag.name} is required; --help lists the flags")
    if printing:
        print(_value(config, known).to_json())
        return None
    return {flag.name: _value(flag, known) for flag in options}


def _define(flag: Setting, known: flags.FlagValues, argv: Sequence[str]) -> None:
    name, kind = flag.name, flag.kind
    if kind in (Settings, ml_collections.ConfigDict):
        config_flags.DEFINE_config_file(name, flag_values=known, sys_argv=argv)
    elif dataclasses.is_dataclass(kind):
        default = ml_collections.ConfigDict(dataclasses.asdict(flag.default))
        config_flags.DEFINE_config_dict(name, default, flag_values=known, sys_argv=argv)
    else:
        define = {
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            bool: flags.DEFINE_bool,
            tuple: flags.DEFINE_list,
            list: flags.DEFINE_multi_string,
        }
        if typing.get_origin(kind) is typing.Annotated:
            kind = kind.__origin__
        kind = typing.get_origin(kind) or kind
        define.get(kind, flags.DEFINE_string)(name, None, "", flag_values=known)


def _value(flag: Setting, known: flags.FlagValues) -> Any:
    """A flag's value in its field's type; raises UserError for one that is not valid."""
    kind, value = flag.kind, known[flag.name].value
    if value is None:
        return flag.default
    if kind in (Settings, ml_collections.ConfigDict):
        if not isinstance(value, ml_collections.ConfigDict):
            path = config_flags.get_config_filename(known[flag.name])
            raise UserError(f"{path}: there is no such configuration file")
        return Settings.from_config(value) if kind is Settings else value
    if dataclasses.is_dataclass(kind):
        value = value.to_dict()
    return parse(kind, value, f"--{flag.name}")


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns whatever is wrong with a flag or a configuration file into a UserError."""
    try:
        yield
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())}; --help lists the flags") from error
    except OSError as error:  # a key of a file that could not be read
        raise UserError(f"--config: {' '.join(str(error).split())}") from error
    except (AttributeError, KeyError) as error:  # a key that does not exist
        inner = error.args[0] if error.args else type(error).__name__
        reason = str(inner.args[0] if isinstance(inner, KeyError) else inner)
        frames = traceback.extract_tb(error.__traceback__)
        last = [frame for frame in frames if "site-packages" not in frame.filename][-1]
        where = "" if last.filename == __file__ else f"{last.filename}:{last.lineno}: "
        unknown = f"{where}unknown setting {'; '.join(reason.splitlines())}"
        raise UserError(unknown) from error
