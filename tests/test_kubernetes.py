"""The Kubernetes manifests are valid and keep their rules; no cluster is needed to see that."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "docker" / "kubernetes"
# The oldest release that is told to do, and the newest of which the schemas are at hand.
OLDEST = "1.30"
KINDS = [
    "ServiceAccount", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget",
    "NetworkPolicy",
]  # fmt: skip
Document = dict[str, Any]


def documents(name: str) -> list[Document]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def patched(base: Any, patch: Any) -> Any:
    """Merge a patch as ``kubectl patch`` does: objects by key, lists of named things by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = {key: patched(base.get(key), value) for key, value in patch.items()}
        return base | merged
    if isinstance(base, list) and all("name" in one for one in [*base, *patch]):
        changes = {one["name"]: one for one in patch}
        return [patched(one, changes.pop(one["name"], {})) for one in base] + list(changes.values())
    return patch


def the_set() -> dict[str, Document]:
    found = documents("triton.yaml")
    assert [one["kind"] for one in found] == KINDS
    return {one["kind"]: one for one in found}


def with_gpu() -> dict[str, Document]:
    found = the_set()
    (patch,) = documents("triton-gpu.yaml")
    return found | {"Deployment": patched(found["Deployment"], patch)}


def arguments(container: Document) -> dict[str, str]:
    pairs = [argument.removeprefix("--").partition("=") for argument in container["args"]]
    assert len({key for key, _, _ in pairs}) == len(pairs), "an argument stands twice"
    return {key: value for key, _, value in pairs}


def image_arguments() -> dict[str, str]:
    """The arguments that the image of Dockerfile.triton starts with by itself."""
    text = (REPOSITORY / "docker" / "Dockerfile.triton").read_text(encoding="utf-8")
    command = text[text.index("\nCMD ") + 5 :].replace("\\\n", "")
    return arguments({"args": json.loads(command)})


def problems(found: dict[str, Document]) -> list[str]:
    """Return what breaks a rule of ours."""
    spec = found["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    (server,) = pod["containers"]
    told = [*in_each(pod), *in_pod(found, spec, pod), *in_server(pod, server)]
    told += [*around(found, spec, server)]
    return told


def in_each(pod: Document) -> list[str]:
    told = []
    for one in [*pod.get("initContainers", []), *pod["containers"]]:
        context = one.get("securityContext", {})
        wanted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        if context != wanted:
            told.append(f"{one['name']} may do more than it needs: {context}")
        if not re.fullmatch(r"[\w./-]+@sha256:[0-9a-f]{64}", one["image"]):
            told.append(f"{one['image']} is not pinned by its digest")
        resources = one.get("resources", {})
        told += [
            f"{one['name']} has no {part} of CPU or memory"
            for part in ("requests", "limits")
            if not {"cpu", "memory"} <= set(resources.get(part, {}))
        ]
        mounts = {mount["mountPath"]: mount for mount in one["volumeMounts"]}
        if not mounts.get("/bundle", {}).get("readOnly"):
            told.append(f"{one['name']} could write to the bundle")
        if any("env" in key for key in one):
            told.append(f"{one['name']} takes its environment from elsewhere")
    return told


def in_pod(found: dict[str, Document], spec: Document, pod: Document) -> list[str]:
    told = []
    context = pod.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        told.append("it may run as root")
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        told.append("system calls are not limited")
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        told.append("it shares the node")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    if any("hostPath" in volume for volume in volumes.values()):
        told.append("it sees the node's files")
    shm = volumes.get("shm", {}).get("emptyDir", {})
    if shm.get("medium") != "Memory" or "sizeLimit" not in shm:
        told.append("there is no shared memory for the Python models")
    if "sizeLimit" not in volumes.get("tmp", {}).get("emptyDir", {}):
        told.append("/tmp can fill the node's disk")
    account = found["ServiceAccount"]
    if pod.get("serviceAccountName") != account["metadata"]["name"]:
        told.append("it runs under another account")
    if pod.get("automountServiceAccountToken", True) or account["automountServiceAccountToken"]:
        told.append("it gets a token for the cluster")
    first = (pod.get("initContainers") or [{}])[0]
    if first.get("command") != ["albert-deploy", "verify", "/bundle"]:
        told.append("the bundle is not verified first")
    if spec["strategy"]["rollingUpdate"].get("maxUnavailable") != 0:
        told.append("an update takes pods away before others are ready")
    return told


def in_server(pod: Document, server: Document) -> list[str]:
    told = []
    given = arguments(server)
    if server["command"] != ["tritonserver"] or given != image_arguments():
        told.append("it starts otherwise than the image")
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    if ports != {"http": 8000, "grpc": 8001, "metrics": 8002}:
        told.append(f"ports {ports} are not those of Triton")
    ready = f"/v2/models/{given.get('load-model')}/ready"
    alive = server.get("livenessProbe", {}).get("exec", {}).get("command", [])
    if alive[-1:] != ["albert_deploy.runtime.serving.alive"]:
        told.append("livenessProbe does not ask the model")
    paths = {"startupProbe": ready, "readinessProbe": ready}
    for name, path in paths.items():
        probe = server.get(name, {}).get("httpGet", {})
        if (probe.get("path"), probe.get("port")) != (path, "http"):
            told.append(f"{name} does not ask {path}")
    mounts = {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"]}
    if mounts.get("/dev/shm") != "shm" or mounts.get("/tmp") != "tmp":
        told.append("it has nowhere to write")
    pause = server.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if pause < 5:
        told.append("requests still come when it has stopped listening")
    if pod["terminationGracePeriodSeconds"] <= pause + int(given.get("exit-timeout-secs", 30)):
        told.append("it is killed before it has answered")
    return told


def around(found: dict[str, Document], spec: Document, server: Document) -> list[str]:
    told = []
    labels = spec["template"]["metadata"]["labels"].items()
    ports = {port["name"] for port in server["ports"]}
    service = found["Service"]["spec"]
    chosen = {
        "Deployment": spec["selector"]["matchLabels"],
        "Service": service["selector"],
        "PodDisruptionBudget": found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": found["NetworkPolicy"]["spec"]["podSelector"].get("matchLabels", {}),
    }
    told += [
        f"{kind} chooses other pods" for kind, by in chosen.items() if not by.items() <= labels
    ]
    for port in service["ports"]:
        if port["targetPort"] not in ports or port["port"] not in (8000, 8001):
            told.append(f"the Service's port {port['port']} leads nowhere, or to the metrics")
    scaled = found["HorizontalPodAutoscaler"]["spec"]
    if scaled["scaleTargetRef"]["name"] != found["Deployment"]["metadata"]["name"]:
        told.append("something else is scaled")
    if scaled["minReplicas"] < 2 or "replicas" in spec:
        told.append("one pod is too few, or two numbers of replicas fight")
    names = {metric["pods"]["metric"]["name"] for metric in scaled["metrics"]}
    if names != {adapter_rule()["name"]["as"]}:
        told.append("no rule makes the metric that it is scaled on")
    policy = found["NetworkPolicy"]["spec"]
    if policy.get("egress") != [] or set(policy["policyTypes"]) != {"Ingress", "Egress"}:
        told.append("it may call out")
    for rule in policy["ingress"]:
        if not rule.get("from") or not {port["port"] for port in rule.get("ports", [])} <= ports:
            told.append("anybody may come in, or at a port that is none")
        if not rule.get("ports"):
            told.append("any port is open")
    return told


def adapter_rule() -> Document:
    (wrapped,) = documents("prometheus-adapter-rule.yaml")
    (rule,) = yaml.safe_load(wrapped["data"]["config.yaml"])["rules"]
    return dict(rule)


def check_schemas(found: list[Document]) -> None:
    validator = pytest.importorskip(
        "kubernetes_validate", reason="run: pip install kubernetes-validate"
    )
    for version in (OLDEST, validator.latest_version()):
        for one in found:
            validator.validate(one, version, strict=True)


def test_every_document_holds_the_schemas_strictly() -> None:
    check_schemas(list(the_set().values()))
    check_schemas(list(with_gpu().values()))
    check_schemas(documents("prometheus-adapter-rule.yaml"))


def test_a_misspelled_field_is_seen_by_the_schemas() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    found = the_set()
    found["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(validator.ValidationError, match="terminationGracePeriod"):
        check_schemas([found["Deployment"]])


@pytest.mark.parametrize("found", [the_set, with_gpu])
def test_the_rules_are_kept(found: Callable[[], dict[str, Document]]) -> None:
    assert problems(found()) == []


def test_the_patch_asks_for_a_gpu_and_leaves_the_rest() -> None:
    before, after = (
        found()["Deployment"]["spec"]["template"]["spec"] for found in (the_set, with_gpu)
    )
    assert after["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert after["containers"][0]["resources"]["limits"]["cpu"] == "2"
    assert after["tolerations"][0]["key"] == "nvidia.com/gpu"
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {"containers", "tolerations"}


POD = ("Deployment", "spec", "template", "spec")
SERVER = (*POD, "containers", 0)
FAULTS: list[tuple[tuple[Any, ...], Any]] = [
    ((*POD, "securityContext", "runAsNonRoot"), False),
    ((*POD, "securityContext", "seccompProfile"), {"type": "Unconfined"}),
    ((*POD, "automountServiceAccountToken"), True),
    ((*POD, "serviceAccountName"), "default"),
    ((*POD, "hostNetwork"), True),
    ((*POD, "terminationGracePeriodSeconds"), 40),
    ((*POD, "initContainers", 0, "command"), ["true"]),
    ((*POD, "initContainers", 0, "image"), "registry.example/albert-triton:latest"),
    ((*POD, "volumes", 0), {"name": "bundle", "hostPath": {"path": "/"}}),
    ((*POD, "volumes", 1, "emptyDir"), {}),
    ((*POD, "volumes", 2, "emptyDir"), {}),
    ((*SERVER, "image"), "registry.example/albert-triton:26.07"),
    ((*SERVER, "securityContext", "readOnlyRootFilesystem"), False),
    ((*SERVER, "securityContext", "capabilities"), {}),
    ((*SERVER, "resources", "limits"), {"cpu": "2"}),
    ((*SERVER, "volumeMounts", 0, "readOnly"), False),
    ((*SERVER, "volumeMounts", 1, "mountPath"), "/dev/shm2"),
    ((*SERVER, "envFrom"), [{"secretRef": {"name": "x"}}]),
    ((*SERVER, "args", 1), "--model-control-mode=poll"),
    ((*SERVER, "args", 8), "--http-restricted-api=trace:key=sesame"),
    ((*SERVER, "ports", 0, "containerPort"), 8080),
    ((*SERVER, "readinessProbe", "httpGet", "path"), "/v2/models/other/ready"),
    ((*SERVER, "livenessProbe", "exec", "command"), ["true"]),
    ((*SERVER, "startupProbe"), {}),
    ((*SERVER, "lifecycle", "preStop", "sleep", "seconds"), 0),
    (("Deployment", "spec", "strategy", "rollingUpdate", "maxUnavailable"), 1),
    (("Deployment", "spec", "replicas"), 1),
    (("Deployment", "spec", "selector", "matchLabels", "app.kubernetes.io/name"), "other"),
    (("Service", "spec", "selector"), {"app": "other"}),
    (("Service", "spec", "ports", 0, "targetPort"), "web"),
    (("Service", "spec", "ports", 1, "port"), 8002),
    (("HorizontalPodAutoscaler", "spec", "minReplicas"), 1),
    (("HorizontalPodAutoscaler", "spec", "scaleTargetRef", "name"), "other"),
    (("HorizontalPodAutoscaler", "spec", "metrics", 0, "pods", "metric", "name"), "queue"),
    (("NetworkPolicy", "spec", "egress"), [{}]),
    (("NetworkPolicy", "spec", "ingress", 0, "from"), []),
    (("NetworkPolicy", "spec", "ingress", 1, "ports"), []),
    (("PodDisruptionBudget", "spec", "selector", "matchLabels"), {"app": "other"}),
    (("ServiceAccount", "automountServiceAccountToken"), True),
]


@pytest.mark.parametrize(("place", "value"), FAULTS, ids=[".".join(map(str, f[0])) for f in FAULTS])
def test_a_broken_rule_is_seen(place: tuple[Any, ...], value: Any) -> None:
    found = copy.deepcopy(the_set())
    inner: Any = found
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    assert problems(found)


def test_the_metric_is_time_in_queues_over_requests_answered() -> None:
    rule = adapter_rule()
    query = rule["metricsQuery"]
    above, _, below = query.partition("/")
    assert "nv_inference_queue_duration_us{<<.LabelMatchers>>}" in above
    assert 'nv_inference_request_success{<<.LabelMatchers>>,model="albert"}' in below
    assert query.count("<<.GroupBy>>") == 2
    assert query.count("(") == query.count(")")
    model = image_arguments()["load-model"]
    assert f'model="{model}"' in rule["seriesQuery"]
    resources = {value["resource"] for value in rule["resources"]["overrides"].values()}
    assert resources == {"namespace", "pod"}


def test_the_monitor_reads_the_metrics_of_these_pods() -> None:
    (monitor,) = documents("pod-monitor.yaml")
    labels = the_set()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = the_set()["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in {port["name"] for port in ports}


def test_each_file_is_told_of_in_the_guide() -> None:
    guide = (REPOSITORY / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert [file.name for file in FOLDER.iterdir() if file.name not in guide] == []
