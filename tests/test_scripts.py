"""The shell scripts, with a stand-in for Python that only logs its calls."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

FAKE_PYTHON = """#!/usr/bin/env bash
if [[ "$1" == -c ]]; then exit "${FAKE_TOO_OLD:-0}"; fi
if [[ "$1" == --version ]]; then echo "Python 3.99"; exit; fi
echo "$*" >> "$FAKE_LOG"
[[ -z "${FAKE_FAILS:-}" || "$*" != *"$FAKE_FAILS"* ]] || exit 7
case "$*" in
  *"-m venv"*)
    mkdir -p "${@: -1}/bin"
    touch "${@: -1}/pyvenv.cfg"
    cp "$0" "${@: -1}/bin/python" ;;
  *make_catalogue*) mkdir -p runs/quickstart/catalogue ;;
  *build_shards*)
    mkdir -p runs/quickstart/shards/k3m_products/patches/1.0.0
    touch runs/quickstart/shards/k3m_products/patches/1.0.0/build.json ;;
esac
"""


class Project:
    """A copy of the scripts with a Python of its own."""

    def __init__(self, folder):
        self.folder, self.log = folder / "project", folder / "log"
        self.bin = folder / "bin"
        self.bin.mkdir()
        shutil.copytree(ROOT / "launch", self.folder / "launch")
        for name in ("requirements.txt", "requirements-dev.txt", "requirements-torch.txt"):
            shutil.copy(ROOT / name, self.folder)
        for tool in ("bash", "cat", "cmp", "cp", "dirname", "mkdir", "touch"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.python("python3")

    def python(self, name, text=FAKE_PYTHON):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, script, *arguments, cwd="/", **environment):
        """Runs it from elsewhere; returns the process and the calls of Python."""
        self.log.write_text("")
        done = subprocess.run(
            [self.folder / "launch" / script, *arguments],
            env={"PATH": str(self.bin), "FAKE_LOG": str(self.log), **environment},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return done, self.log.read_text().splitlines()


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.mark.parametrize("script", ["quickstart.sh", "robust.sh", "test.sh"])
def test_help_does_nothing_else(project, script):
    done, calls = project.run(script, "--help")
    assert done.returncode == 0
    assert "usage: ./launch/" in done.stdout
    assert calls == []
    assert not (project.folder / ".venv").exists()


def test_quickstart_does_each_step_once(project):
    done, calls = project.run("quickstart.sh")
    assert done.returncode == 0, done.stderr
    assert calls[0] == "-m venv --clear .venv"
    assert calls[1].endswith("-rrequirements.txt")
    steps = ["make_catalogue", "build_shards", "pretrain", "evaluate"]
    assert [line.split()[1] for line in calls[2:]] == [f"launch.{step}" for step in steps]
    assert f"{project.folder}/runs/quickstart/run/checkpoints" in done.stdout

    done, calls = project.run("quickstart.sh")
    assert done.returncode == 0
    assert [line.split()[1] for line in calls] == ["launch.pretrain", "launch.evaluate"]


def test_quickstart_stops_at_the_step_that_fails_and_goes_on_there(project):
    done, calls = project.run("quickstart.sh", FAKE_FAILS="pretrain")
    assert done.returncode == 7
    assert "launch.pretrain" in calls[-1]
    assert "checkpoint" not in done.stdout
    _, calls = project.run("quickstart.sh")
    assert calls[0].split()[1] == "launch.pretrain"


def test_quickstart_takes_no_arguments(project):
    done, calls = project.run("quickstart.sh", "--steps=5")
    assert done.returncode == 2
    assert calls == []


def test_robust_takes_a_folder_from_pictures_to_measures(project, tmp_path):
    dump = tmp_path / "a dump"
    dump.mkdir()
    done, calls = project.run("robust.sh", str(dump))
    assert (done.returncode, calls) == (2, [])
    assert "products.jsonl" in done.stderr
    (dump / "products.jsonl").touch()
    done, calls = project.run("robust.sh", "a dump", "runs/mine", "--config.seed=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert calls[1].endswith("-rrequirements.txt -rrequirements-torch.txt")
    steps = ["extract_regions", "build_shards", "pretrain", "evaluate", "probe"]
    assert [line.split()[1] for line in calls[2:]] == [f"launch.{step}" for step in steps]
    assert all(f"--input={dump}" in line for line in calls[2:4])
    assert calls[4].endswith("--config.data.sources=('runs/mine/shards',) --config.seed=3")
    done, _ = project.run("robust.sh", str(dump), FAKE_FAILS="pretrain")
    assert done.returncode == 7


def test_test_script_passes_arguments_on(project):
    done, calls = project.run("test.sh", "--fast", "tests/test_metrics.py", "-k", "two words")
    assert done.returncode == 0, done.stderr
    assert calls[1].endswith("-rrequirements.txt -rrequirements-dev.txt")
    pytest_call, selected = calls[2].split(" -m not slow and not long")
    assert pytest_call.startswith("-m pytest")
    assert selected == " tests/test_metrics.py -k two words"
    _, calls = project.run("test.sh")
    assert calls == [f"{pytest_call} -m not long"]
    _, calls = project.run("test.sh", "--long")
    assert calls == [f"{pytest_call} -m "]
    done, _ = project.run("test.sh", FAKE_FAILS="pytest")
    assert done.returncode == 7


def test_only_changed_requirements_are_installed(project):
    project.run("test.sh")
    with (project.folder / "requirements-dev.txt").open("a") as file:
        file.write("another\n")
    _, calls = project.run("test.sh")
    assert calls[0].split()[-1] == "-rrequirements-dev.txt"
    # The quickstart needs the other file alone, which is as it was.
    _, calls = project.run("quickstart.sh")
    assert "pip" not in " ".join(calls)


def test_an_installation_that_failed_is_done_again(project):
    done, _ = project.run("test.sh", FAKE_FAILS="pip install")
    assert done.returncode == 7
    _, calls = project.run("test.sh")
    assert "pip install" in calls[0]


def test_another_python_and_folder_can_be_named(project):
    project.python("mine")
    _, calls = project.run("test.sh", K3M_PYTHON="mine", K3M_VENV=".venv-mine")
    assert calls[0] == "-m venv --clear .venv-mine"
    assert not (project.folder / ".venv").exists()
    done, _ = project.run("test.sh", K3M_PYTHON="absent", K3M_VENV=".venv-absent")
    assert done.returncode == 2
    assert "K3M_PYTHON=absent" in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(project, tmp_path):
    (tmp_path / "precious").mkdir()
    done, calls = project.run("test.sh", K3M_VENV=str(tmp_path / "precious"))
    assert done.returncode == 2
    assert "not a virtual environment" in done.stderr
    assert calls == []


def test_pythons_that_do_not_run_or_are_too_old_are_passed_over(project):
    """Shims of version managers stand on PATH also for versions that they do not run."""
    project.python("python3", FAKE_PYTHON.replace('"${FAKE_TOO_OLD:-0}"', "1"))
    project.python("python3.14", "#!/usr/bin/env bash\necho 'command not found'\nexit 127\n")
    done, _ = project.run("test.sh")
    assert done.returncode == 2
    assert "no Python >= 3.11 found" in done.stderr
    project.python("python3.12")
    done, calls = project.run("test.sh")
    assert done.returncode == 0
    assert calls[0] == "-m venv --clear .venv"


def test_scripts_pass_shellcheck():
    shellcheck = shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed: pip install -r requirements-dev.txt")
    scripts = [*ROOT.glob("launch/*.sh"), *ROOT.glob("launch/*.sbatch"), ROOT / ".ci" / "run"]
    done = subprocess.run([shellcheck, "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_scripts_are_executable():
    for script in ("launch/quickstart.sh", "launch/test.sh", ".ci/run"):
        assert os.access(ROOT / script, os.X_OK), script
