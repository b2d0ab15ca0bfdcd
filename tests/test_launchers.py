"""The launchers on a machine without the clusters, with stand-ins for `gcloud`, `srun` and
`scontrol` that log their calls and end with the exit codes that a test sets."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT

TOOLS = (
    *("bash", "cat", "cmp", "cp", "date", "dirname", "env", "flock", "git", "grep", "gzip", "head"),
    *("mkdir", "mktemp", "sed", "sleep", "sort", "touch", "tr"),
)
FLAGS = ["--config=configs/debug.py", "--workdir=gs://bucket/a run"]

# FAKE_CODES has a file per host; its first line is how the next run ends there.
GCLOUD = r"""#!/usr/bin/env bash
all="$*"
echo "$all" >>"$FAKE_LOG"
case "$all" in
  *"tpu-vm describe slice-a"*) echo "10.0.0.1;10.0.0.2" ;;
  *"tpu-vm describe"*) echo "10.0.1.1;10.0.1.2" ;;
  *"kill -TERM"*) touch "$FAKE_CODES/stopped" ;;
  *"-m launch.pretrain"*)
    host="$5-${all##*--worker=}"
    host="$FAKE_CODES/${host%% *}"
    while [[ -e "$FAKE_CODES/endless" && ! -e "$FAKE_CODES/stopped" ]]; do sleep 0.05; done
    code="$(head -n1 "$host")"
    sed -i 1d "$host"
    [[ "$code" != 2 ]] || echo "error: data.sources is empty"
    exit "$code" ;;
esac
"""
SRUN = r"""#!/usr/bin/env bash
printf 'srun %s\n' "$*" >>"$FAKE_LOG"
echo "error: no such thing" >"$LOGS/$SLURM_JOB_ID-0.log"
while [[ -e "$FAKE_CODES/endless" ]]; do sleep 0.05; done
exit "$(cat "$FAKE_CODES/code")"
"""
SCONTROL = '#!/usr/bin/env bash\nprintf \'scontrol %s\\n\' "$*" >>"$FAKE_LOG"\n'
PYTHON = "#!/usr/bin/env bash\nexit 0\n"


class Cluster:
    """A clone of the project with nothing but the stand-ins and a few tools on its PATH."""

    def __init__(self, folder):
        self.root, self.codes, self.log = folder / "project", folder / "codes", folder / "log"
        self.logs, bin_ = folder / "logs", folder / "bin"
        for path in (self.root, self.codes, bin_):
            path.mkdir()
        self.log.touch()
        shutil.copytree(ROOT / "launch", self.root / "launch")
        for name in ("requirements.txt", "requirements-cuda12.txt"):
            (self.root / name).touch()
        for tool in TOOLS:
            (bin_ / tool).symlink_to(shutil.which(tool))
        fakes = {"gcloud": GCLOUD, "srun": SRUN, "scontrol": SCONTROL, "python3": PYTHON}
        for name, text in fakes.items():
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        (self.root / ".venv/bin").mkdir(parents=True)
        shutil.copy(bin_ / "python3", self.root / ".venv/bin/python")
        for name in ("init", "add launch", "-c user.name=t -c user.email=t@t commit --message=t"):
            subprocess.run(["git", *name.split()], cwd=self.root, capture_output=True, check=True)
        self.environment = {
            "PATH": str(bin_),
            "HOME": str(folder),
            "FAKE_LOG": str(self.log),
            "FAKE_CODES": str(self.codes),
            "LOGS": str(self.logs),
            "PAUSE": "0",
        }

    def ends(self, **codes):
        """How the runs end on each host, one after the other."""
        for host, each in codes.items():
            (self.codes / host.replace("_", "-")).write_text("".join(f"{code}\n" for code in each))

    def start(self, script, *arguments, **environment):
        """The process of a launcher."""
        return subprocess.Popen(
            [shutil.which("bash"), self.root / "launch" / script, *arguments],
            env=self.environment | environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *arguments, **environment):
        """(exit code, stdout, stderr, calls of the stand-ins)."""
        self.log.write_text("")
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err, self.log.read_text().splitlines()


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def runs(calls):
    return [line for line in calls if "launch.pretrain" in line]


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm_gpu.sbatch"])
def test_help_and_mistakes_start_nothing(cluster, script):
    code, out, _, calls = cluster.run(script, "--help")
    assert (code, calls) == (0, [])
    assert "usage:" in out
    code, _, err, calls = cluster.run(script)
    assert (code, calls) == (2, [])
    assert "usage:" in err
    for name in ("CACHE", "LOGS", "RESTARTS", "PATIENCE"):
        assert name in out
    for mistyped in (["--dryrun", *FLAGS], [*FLAGS, "--dry-run"], ["--confg.seed=1", *FLAGS]):
        code, _, err, calls = cluster.run(script, *mistyped)
        assert (code, calls) == (2, [])
        assert err.startswith("error: --")


# TPU slices


def test_a_dry_run_prints_the_commands_of_two_slices(cluster):
    code, out, _, calls = cluster.run(
        "tpu_pod.sh", "--dry-run", *FLAGS, TPU="slice-a slice-b", ZONE="z", PROJECT="p"
    )
    assert (code, calls) == (0, [])
    lines = out.splitlines()
    assert all(line.startswith("gcloud compute tpus tpu-vm ") for line in lines)
    assert all("'--zone=z' '--project=p'" in line for line in lines)
    assert [line.split()[4].strip("'") for line in lines] == ["scp"] * 2 + ["ssh"] * 4
    assert all("prepare_environment requirements.txt requirements-tpu" in s for s in lines[2:4])
    for number, line in enumerate(lines[4:]):
        assert "MEGASCALE_COORDINATOR_ADDRESS=ADDRESS-OF-slice-a MEGASCALE_NUM_SLICES=2" in line
        assert f"MEGASCALE_SLICE_ID={number}" in line
    assert not cluster.logs.exists()


def test_one_slice_runs_on_all_its_hosts_with_a_log_each(cluster):
    cluster.ends(slice_a_0=[0], slice_a_1=[0])
    code, out, _, calls = cluster.run("tpu_pod.sh", *FLAGS, TPU="slice-a", CACHE="gs://bucket/c")
    assert code == 0
    assert "finished" in out
    assert len(runs(calls)) == 2
    for line in runs(calls):
        assert "JAX_COMPILATION_CACHE_DIR=gs://bucket/c .venv/bin/python" in line
        assert line.endswith("'--config=configs/debug.py' '--workdir=gs://bucket/a run'")
        assert "MEGASCALE" not in line
    copied = [line for line in calls if "tpu-vm scp" in line]
    assert len(copied) == 1
    assert "--worker=all" in copied[0]
    logs = [path.relative_to(cluster.logs).as_posix() for path in cluster.logs.rglob("*.log")]
    assert sorted(logs) == ["0/slice-a-0.log", "0/slice-a-1.log"]


def test_several_slices_know_each_other(cluster):
    cluster.ends(slice_a_0=[0], slice_a_1=[0], slice_b_0=[0], slice_b_1=[0])
    code, _, _, calls = cluster.run("tpu_pod.sh", *FLAGS, TPU="slice-a slice-b", INSTALL="")
    assert code == 0
    found = {tuple(p for p in line.split() if "MEGASCALE" in p) for line in runs(calls)}
    common = ("MEGASCALE_COORDINATOR_ADDRESS=10.0.0.1", "MEGASCALE_NUM_SLICES=2")
    assert found == {(*common, f"MEGASCALE_SLICE_ID={i}") for i in (0, 1)}
    assert len(runs(calls)) == 4
    assert not any("scp" in line for line in calls)


def test_preempted_and_crashed_runs_start_again_until_done(cluster):
    cluster.ends(slice_a_0=[75, 1, 0], slice_a_1=[75, 0, 0])
    code, _, err, calls = cluster.run("tpu_pod.sh", *FLAGS, TPU="slice-a")
    assert code == 0
    assert err.count("started again") == 2
    assert "ended with 75" in err
    assert "ended with 1" in err
    assert len(runs(calls)) == 6
    assert sum("scp" in line for line in calls) == 1
    assert len(list(cluster.logs.rglob("*.log"))) == 6


def test_a_mistake_ends_with_its_message_once(cluster):
    cluster.ends(slice_a_0=[2], slice_a_1=[2])
    code, _, err, calls = cluster.run("tpu_pod.sh", *FLAGS, TPU="slice-a")
    assert code == 2
    assert err.splitlines() == ["error: data.sources is empty"]
    assert len(runs(calls)) == 2


def test_restarts_have_a_limit(cluster):
    cluster.ends(slice_a_0=[1, 1, 1, 0], slice_a_1=[134, 134, 75, 0])
    code, _, err, calls = cluster.run("tpu_pod.sh", *FLAGS, TPU="slice-a", RESTARTS="2")
    assert code == 1
    assert "error: ended with 1, after 2 restarts" in err
    assert len(runs(calls)) == 6


def test_a_signal_stops_the_hosts_and_waits_for_them(cluster):
    cluster.ends(slice_a_0=[75], slice_a_1=[75])
    (cluster.codes / "endless").touch()
    process = cluster.start("tpu_pod.sh", *FLAGS, TPU="slice-a")
    wait_for(lambda: len(runs(cluster.log.read_text().splitlines())) == 2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "run the same command to go on" in err
    assert len(runs(cluster.log.read_text().splitlines())) == 2


def test_a_host_runs_one_process_at_a_time(cluster, tmp_path):
    """The command for a host itself, with a stand-in for Python that logs when it ran."""
    host = tmp_path / "host/k3m_jax"
    (host / ".venv/bin").mkdir(parents=True)
    python = host / ".venv/bin/python"
    python.write_text('#!/usr/bin/env bash\necho "$$ $*" >>ran; sleep 0.5; echo end >>ran\n')
    python.chmod(0o755)
    _, out, _, _ = cluster.run("tpu_pod.sh", "--dry-run", *FLAGS, INSTALL="", PATIENCE="20")
    printed = subprocess.run(
        ["bash", "-c", f"{out.strip().replace('gcloud', 'printf %s.')}"], capture_output=True
    )
    command = printed.stdout.decode().split("--command=")[1].removesuffix(".")
    both = [
        subprocess.Popen(["bash", "-c", command], cwd=tmp_path / "host", env=cluster.environment)
        for _ in range(2)
    ]
    assert [process.wait(30) for process in both] == [0, 0]
    ran = (host / "ran").read_text().splitlines()
    assert [line.partition(" ")[2] for line in ran[::2]] == [
        "-m launch.pretrain --config=configs/debug.py --workdir=gs://bucket/a run"
    ] * 2
    assert ran[1::2] == ["end", "end"]
    assert (host / "run.pid").read_text().strip() == ran[2].split()[0]


# Slurm


def slurm(cluster, code, *arguments, **environment):
    (cluster.codes / "code").write_text(str(code))
    environment = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(cluster.root)} | environment
    return cluster.run("slurm_gpu.sbatch", *(arguments or FLAGS), **environment)


@pytest.fixture
def installed(cluster):
    (cluster.root / ".venv/.installed").mkdir()
    for name in ("requirements.txt", "requirements-cuda12.txt"):
        shutil.copy(cluster.root / name, cluster.root / ".venv/.installed")
    return cluster


def test_slurm_dry_run(installed):
    code, out, _, calls = slurm(installed, 0, "--dry-run", *FLAGS)
    assert (code, calls) == (0, [])
    assert "'-m' 'launch.pretrain' '--config=configs/debug.py' '--workdir=gs://bucket/a run'" in out
    assert "'scontrol' 'requeue' '7'" in out


@pytest.mark.parametrize(
    ("ends", "environment", "requeued"),
    [
        (0, {}, False),
        (2, {}, False),
        (75, {}, True),
        (1, {"SLURM_RESTART_COUNT": "49"}, True),
        (75, {"SLURM_RESTART_COUNT": "50"}, False),
    ],
)
def test_slurm_requeues_what_can_go_on(installed, ends, environment, requeued):
    code, _, err, calls = slurm(installed, ends, **environment)
    assert code == ends
    assert calls[0].startswith("srun --kill-on-bad-exit=0 --wait=900 ")
    assert calls[0].endswith(f".venv/bin/python -m launch.pretrain {' '.join(FLAGS)}")
    assert calls[1:] == ["scontrol requeue 7"] * requeued
    assert ("error: no such thing" in err) == (ends == 2)


def test_slurm_does_not_requeue_what_was_cancelled(installed):
    (installed.codes / "code").write_text("75")
    (installed.codes / "endless").touch()
    environment = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(installed.root)}
    process = installed.start("slurm_gpu.sbatch", *FLAGS, **environment)
    wait_for(lambda: "srun" in installed.log.read_text())
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    (installed.codes / "endless").unlink()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "submit the same job to go on" in err
    assert "scontrol" not in installed.log.read_text()


def test_slurm_options_fit_jaxs_detection():
    text = (ROOT / "launch/slurm_gpu.sbatch").read_text()
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )
    assert options["ntasks-per-node"] == options["gpus-per-node"]  # a process per GPU
    assert "gpus-per-task" not in options  # each must see all of its node's
    assert options["signal"].startswith("TERM@")  # to the processes, not to the script ("B:")
    assert "requeue" in options


def test_launchers_are_executable():
    for script in ("tpu_pod.sh", "slurm_gpu.sbatch"):
        assert os.access(ROOT / "launch" / script, os.X_OK), script


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
