"""What `pip install .` brings along."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT


@pytest.mark.long
def test_the_wheel_has_all_packages_and_the_licence(tmp_path):
    source = tmp_path / "source"  # the build leaves its own folders where it runs
    for name in ("k3m_jax", "configs", "launch"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, f"--wheel-dir={tmp_path}", str(source)], check=True)
    (wheel,) = tmp_path.glob("k3m_jax-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tracked = ROOT.glob("k3m_jax/**/*.py"), ROOT.glob("configs/*.py"), ROOT.glob("launch/*.py")
    modules = {path.relative_to(ROOT).as_posix() for paths in tracked for path in paths}
    for kind in ("txtpb", "css", "md"):
        modules |= {p.relative_to(ROOT).as_posix() for p in ROOT.glob(f"k3m_jax/**/*.{kind}")}
    assert modules
    assert modules <= set(names)
