"""The job sets for Kubernetes: valid, and restarted or not by the exit code of a process."""

import string

import pytest
import yaml
from conftest import ROOT

VALUES = {
    "NAME": "k3m",
    "IMAGE": "europe-docker.pkg.dev/p/r/k3m_jax:1",
    "BUCKET": "bucket",
    "SHARDS": "shards",
    "RUN": "runs/first",
}
TPU = {
    "SLICES": "2",
    "HOSTS": "64",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "16x16",
    "CONFIG": "configs/tpu_v5e_256.py",
}
GPU = {
    "NODES": "4",
    "GPUS": "8",
    "ACCELERATOR": "nvidia-h100-80gb",
    "CONFIG": "configs/gpu_8xh100.py",
}
COUNT = {"type": "integer", "minimum": 1}


def group(required, **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def each(schema):
    return {"type": "array", "items": schema, "minItems": 1}


ANY, TEXT = {"type": "object"}, {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}  # an unquoted true or 16 is none
NAMED = {"type": "object", "required": ["name"], "properties": {"name": TEXT, "value": TEXT}}
CONTAINER = group(
    ["name", "image", "command", "args", "resources"],
    name=TEXT,
    image={"type": "string", "pattern": "^[^$ ]+$"},
    command=each(TEXT),
    args=each(TEXT),
    env=each(NAMED),
    ports=each(group(["containerPort"], containerPort=COUNT)),
    resources={"type": "object", "required": ["limits"]},
    volumeMounts=each(group(["name", "mountPath"], name=TEXT, mountPath=TEXT, readOnly={})),
)
POD = group(
    ["restartPolicy", "containers"],
    restartPolicy={"const": "Never"},  # what a podFailurePolicy asks for
    terminationGracePeriodSeconds=COUNT,
    serviceAccountName=TEXT,
    nodeSelector=TEXTS,
    containers=each(CONTAINER),
    volumes=each(NAMED),
)
JOB = group(
    [
        "parallelism",
        "completions",
        "completionMode",
        "backoffLimit",
        "podFailurePolicy",
        "template",
    ],
    parallelism=COUNT,
    completions=COUNT,
    completionMode={"const": "Indexed"},
    backoffLimit={"const": 0},
    podFailurePolicy=group(["rules"], rules=each(ANY)),
    template=group(["spec"], metadata=group([], annotations=TEXTS), spec=POD),
)
# The fields of the JobSet's own definition (v1alpha2) that are used here, and no others.
JOBSET = group(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=group(["name"], name=TEXT, annotations=TEXTS),
    spec=group(
        ["failurePolicy", "replicatedJobs"],
        failurePolicy=group(
            ["maxRestarts"],
            maxRestarts=COUNT,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules=each(
                group(
                    ["name", "action"],
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={
                        "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
                    },
                    onJobFailureReasons=each(TEXT),
                )
            ),
        ),
        replicatedJobs=each(
            group(
                ["name", "template"], name=TEXT, replicas=COUNT, template=group(["spec"], spec=JOB)
            )
        ),
    ),
)


def jobset(name, values):
    text = (ROOT / "launch" / name).read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    for variable in (*VALUES, *values):
        assert any(f"{variable}=" in line for line in head), variable  # the head says how to set it
    # As envsubst does: $(NAME), which is Kubernetes' own, stays.
    text = string.Template(text.replace("$(", "$$(")).substitute(VALUES | values)
    (document,) = yaml.safe_load_all(text)
    return document


@pytest.mark.parametrize(
    ("name", "values"), [("gke_jobset.yaml", TPU), ("gke_jobset_gpu.yaml", GPU)]
)
def test_job_sets_are_valid_and_end_or_restart_by_the_exit_code(name, values):
    jsonschema = pytest.importorskip("jsonschema", reason="needs requirements-dev.txt")
    document = jobset(name, values)
    jsonschema.Draft202012Validator.check_schema(JOBSET)
    jsonschema.validate(document, JOBSET)
    (job,) = document["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"]
    (container,) = spec["template"]["spec"]["containers"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    (final,) = document["spec"]["failurePolicy"]["rules"]
    assert (final["action"], final["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    # A container's own is 64 MB, of which workers that hand over larger batches die.
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    memory = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
    assert memory in spec["template"]["spec"]["volumes"]
    assert {"name": "JAX_COMPILATION_CACHE_DIR", "value": "gs://bucket/compiled"} in container[
        "env"
    ]
    assert container["args"][:3] == [
        f"--config={values['CONFIG']}",
        "--workdir=gs://bucket/runs/first",
        "--config.data.sources=/bucket/shards",
    ]


def test_gpu_processes_learn_where_to_find_each_other():
    document = jobset("gke_jobset_gpu.yaml", GPU)
    (job,) = document["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    host = f"{document['metadata']['name']}-{job['name']}-0-0.{document['metadata']['name']}"
    assert container["args"][3:] == [
        f"--config.distributed.coordinator={host}:8482",
        "--config.distributed.processes=4",
        "--config.distributed.process=$(PROCESS)",
    ]
    assert container["env"][0]["name"] == "PROCESS"
