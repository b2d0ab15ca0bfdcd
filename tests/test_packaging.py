"""What `pip install .` brings along."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

MOVED = ("configs", "launch")  # to where a wheel has them
EXTRAS = {"beam", "cuda12", "cuda13", "fetch", "gcs", "torch", "tpu"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # the build leaves its own folders where it runs
    for name in ("k3m_jax", *MOVED):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, f"--wheel-dir={folder}", str(source)], check=True)
    return next(folder.glob("k3m_jax-*.whl"))


@pytest.mark.long
def test_the_wheel_has_all_packages_and_the_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    modules = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("k3m_jax/**/*.py")}
    for kind in ("txtpb", "css", "md", "toml", "typed"):
        modules |= {p.relative_to(ROOT).as_posix() for p in ROOT.glob(f"k3m_jax/**/*.{kind}")}
    for name in MOVED:
        found = (p.relative_to(ROOT).as_posix() for p in ROOT.glob(f"{name}/*.py"))
        modules |= {f"k3m_jax/_checkout/{path}" for path in found}
    assert modules <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"k3m_jax"}
    (metadata,) = (archive.read(n).decode() for n in names if n.endswith("/METADATA"))
    assert set(re.findall(r"Provides-Extra: (\S+)", metadata)) >= EXTRAS
    assert re.search(r"Requires-Dist: aiohttp.*; extra == .fetch.", metadata)


@pytest.mark.long
def test_an_installed_package_runs_its_commands_anywhere(wheel, tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={site}"]
    subprocess.run([*command, str(wheel)], check=True)

    def k3m(*arguments):
        environment = os.environ | {"PYTHONPATH": str(site)}
        command = [sys.executable, str(site / "bin" / "k3m"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    listed = k3m()
    assert listed.returncode == 0
    assert all(f"  {name}" in listed.stdout for name in ("build", "pretrain", "embed", "fetch"))
    assert k3m("biuld").returncode == 2
    lines = (f'{{"id": {i}, "title": "thing {i}", "split": "train"}}\n' for i in range(9))
    (tmp_path / "shop.jsonl").write_text("".join(lines))
    flags = ["--format=table", "--mapping=plain", "--input=shop.jsonl", "--output=data"]
    built = k3m("build", *flags, "--workers=1", "--vocabulary_size=60")
    assert built.returncode == 0, built.stderr
    for config in ("configs/quickstart.py:debug", "quickstart:debug"):
        printed = k3m("pretrain", f"--config={config}", "--workdir=run", "--print_config")
        assert '"steps": 20' in printed.stdout, printed.stderr
