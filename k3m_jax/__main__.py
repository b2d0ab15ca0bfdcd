"""`k3m COMMAND …` of an installed package: the commands of a checkout's `launch/`.

  k3m build --help   is   python -m launch.build_shards --help

`--config=configs/quickstart.py`, or `--config=quickstart`, is the package's own file where the
current folder has none of that name.
"""

import ast
import importlib
import os
import pathlib
import sys

PACKAGE = pathlib.Path(__file__).parent
SHORT = {"build": "build_shards", "fetch": "fetch_pictures"}
NO_COMMANDS = {"__init__", "cli", "run_flags", "document_settings"}
FILES = ("--config=", "--configs=", "--grid=")  # flags that name a configuration file


def main() -> None:
    """Runs a command as this process."""
    inside = PACKAGE / "_checkout"  # where a wheel has launch/ and configs/
    root = inside if inside.is_dir() else PACKAGE.parent
    commands = {path.stem: path for path in sorted((root / "launch").glob("*.py"))}
    for name in NO_COMMANDS:
        commands.pop(name, None)
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    name = SHORT.get(given, given.replace("-", "_"))
    if given in ("-h", "--help"):
        print(f"{__doc__.strip()}\n\nCommands:")
        for command, path in commands.items():
            short = next((s for s, whole in SHORT.items() if whole == command), command)
            print(f"  {short:16} {ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]}")
        return
    if name not in commands:
        print(f"error: there is no command {given!r}: k3m --help lists them", file=sys.stderr)
        sys.exit(2)
    sys.path.insert(0, str(root))
    there = filter(None, (str(root), os.environ.get("PYTHONPATH")))
    os.environ["PYTHONPATH"] = os.pathsep.join(there)  # of the processes that a command starts
    sys.argv = [f"k3m {given}", *(_own_file(argument, root) for argument in sys.argv[2:])]
    module = importlib.import_module(f"launch.{name}")
    importlib.import_module("launch.cli").run(module.main)


def _own_file(argument: str, root: pathlib.Path) -> str:
    flag = next((flag for flag in FILES if argument.startswith(flag)), "")
    path, colon, variant = argument.removeprefix(flag).partition(":")
    for own in (root / path, root / "configs" / f"{path}.py"):
        if flag and path and own.is_file() and not pathlib.Path(path).is_file():
            return f"{flag}{own}{colon}{variant}"
    return argument


if __name__ == "__main__":
    main()
