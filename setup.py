"""What pyproject.toml can't say: where a wheel has launch/ and configs/, and the extras."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
# Inside the package: an installed library owns no top-level `launch` or `configs`.
MOVED = {f"k3m_jax._checkout.{name}": name for name in ("launch", "configs")}
DEVELOPMENT = ("dev", "minilm")


def extras() -> dict[str, list[str]]:
    """The packages of each requirements-NAME.txt, without those of requirements.txt."""
    found = {}
    for path in sorted(ROOT.glob("requirements-*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        packages = [line for line in lines if line.strip() and line[0] not in "#-"]
        if (name := path.stem.removeprefix("requirements-")) not in DEVELOPMENT:
            found[name] = packages
    return found


setup(
    packages=[*find_packages(include=["k3m_jax*"]), *MOVED],
    package_dir=MOVED,
    extras_require=extras(),
)
