"""Absurd values are refused by helm with the key's name; strange but valid ones are rendered unchanged."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from check_manifests import complaints
from manifest_rules import broken_rules, pods_of
from render import CHART, helm_template

Manifest = dict[str, Any]
RenderWith = Callable[..., list[Manifest]]
LONG = "x" * 300
GPU = {"nvidia.com/gpu": "1"}


def _gpu(**more: Any) -> dict[str, Any]:
    return {"workers": {"gpu": more}}


def _env(**variable: Any) -> dict[str, Any]:
    return {"env": [variable]}


def _mount(path: str, **more: Any) -> dict[str, Any]:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "tomograms"}}]
    return {"volumes": volumes, "volumeMounts": [{"name": "data", "mountPath": path} | more]}


def _volume(**volume: Any) -> dict[str, Any]:
    return {"volumes": [volume]}


def _egress(**rule: Any) -> dict[str, Any]:
    return {"networkPolicy": {"egress": [{"port": 443} | rule]}}


def _schedule(text: str) -> dict[str, Any]:
    return {"cronJob": {"enabled": True, "schedule": text}}


def _image(**image: Any) -> dict[str, Any]:
    return {"images": {"cpu": image}}


# Values that an API server, the operator or a kubelet would refuse, or worse, accept: (values, words of the error).
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "label of 300 letters": (_gpu(nodeSelector={"disk": LONG}), "workers.gpu.nodeSelector.disk"),
    "label with a line break": (_gpu(nodeSelector={"disk": "ssd\nevil: true"}), "workers.gpu.nodeSelector.disk"),
    "label beyond ASCII": (_gpu(nodeSelector={"disk": "schnellste-Platte-ü"}), "workers.gpu.nodeSelector.disk"),
    "label's key that is none": (_gpu(nodeSelector={"a b": "c"}), "workers.gpu.nodeSelector"),
    "annotation's key that is none": (
        {"serviceAccounts": {"driver": {"annotations": {"two words": "x"}}}},
        "serviceAccounts.driver.annotations",
    ),
    "toleration of everything with a value": (
        _gpu(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
        "workers.gpu.tolerations.0",
    ),
    "toleration of nothing": (_gpu(tolerations=[{"value": "b"}]), "workers.gpu.tolerations.0"),
    "toleration's time without its effect": (
        _gpu(tolerations=[{"key": "a", "operator": "Exists", "tolerationSeconds": 3}]),
        "workers.gpu.tolerations.0",
    ),
    "request above its limit": (
        _gpu(resources={"requests": {"memory": "20Gi"}, "limits": {"memory": "16000Mi"}}),
        "workers.gpu.resources: memory: a request of 20Gi is above its limit of 16000Mi",
    ),
    "half a GPU": (_gpu(resources={"requests": {"nvidia.com/gpu": "0.5"}}), "nvidia.com/gpu"),
    "another device without a limit": (
        _gpu(resources={"requests": {"example.org/fpga": "1"}}),
        "example.org/fpga is requested without a limit",
    ),
    "negative replicas": (_gpu(replicas=-1), "workers.gpu.replicas"),
    "half a worker": (_gpu(max=1.5), "workers.gpu.max"),
    "negative memory": (_gpu(resources={"limits": {"memory": "-1Gi"}}), "workers.gpu.resources.limits.memory"),
    "group with a long name": ({"workers": {"preemptible-gpus": {}}}, "workers"),
    "group with a capital": ({"workers": {"GPU": {}}}, "workers"),
    "group of a kind that is none": (_gpu(kind="tpu"), "workers.gpu.kind"),
    "key removed with null": ({"tls": None}, "tls is required"),
    "inner key removed with null": ({"run": {"graceSeconds": None}}, "graceSeconds is required"),
    "text where a map belongs": ({"workers": "all of them"}, "workers"),
    "list where a map belongs": ({"monitoring": []}, "monitoring"),
    "empty config": ({"run": {"config": ""}}, "run.config"),
    "config of two words": ({"run": {"config": "s3://bucket/a b"}}, "run.config"),
    "config on a relative path": ({"run": {"config": "../config.json"}}, "run.config"),
    "config with a line break": ({"run": {"config": "/data/a\n/b"}}, "run.config"),
    "config in a signed URL": ({"run": {"config": "https://host/c.json?X-Amz-Signature=abc"}}, "run.config"),
    "weights from a signed URL": (
        {"weights": [{"name": "a", "url": "https://host/a?token=abc", "sha256": "0" * 64}]},
        "weights.0.url",
    ),
    "weights of one name twice": (
        {"weights": [{"name": "a", "url": "https://host/a", "sha256": "0" * 64}] * 2},
        "weights: a is given twice",
    ),
    "name of a run that leaves its folder": ({"run": {"runs": ["../TS_1"]}}, "run.runs.0"),
    "name of a run beyond ASCII": ({"run": {"runs": ["TS_1\u202e"]}}, "run.runs.0"),
    "stage that is none": ({"run": {"stages": ["segment; rm -rf /"]}}, "run.stages.0"),
    "option of two lines": ({"run": {"extraArgs": ["--set\n--force"]}}, "run.extraArgs.0"),
    "repository that climbs": (_image(repository="host/../other"), "images.cpu.repository"),
    "repository with a quote": (_image(repository='host/a"b'), "images.cpu.repository"),
    "tag with a space": (_image(repository="host/a", tag="1 2"), "images.cpu.tag"),
    "variable that the chart gives": (_env(name="DASK_SCHEDULER_ADDRESS", value="tcp://evil:1"), "env.0"),
    "variable of libraries' threads": (_env(name="OMP_NUM_THREADS", value="64"), "env.0"),
    "variable twice": ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "env: A is given twice"),
    "password in a proxy's URL": (_env(name="HTTPS_PROXY", value="http://user:hunter2@proxy:3128"), "env.0.value"),
    "credentials in place of their file": (_env(name="GOOGLE_APPLICATION_CREDENTIALS", value="{}"), "env.0.value"),
    "variable as a number": (_env(name="A", value=1), "env.0.value"),
    "variable from nowhere": (_env(name="A", valueFrom={}), "env.0"),
    "variable from a secret without a key": (_env(name="A", valueFrom={"secretKeyRef": {"name": "a"}}), "env.0"),
    "variable with a dash": (_env(name="A-B", value="1"), "env.0.name"),
    "volume of the chart's own": (_volume(name="scratch", emptyDir={}), "volumes.0.name"),
    "volume twice": ({"volumes": [{"name": "a", "emptyDir": {}}] * 2}, "volumes: a is given twice"),
    "volume of a kind that is none": (_volume(name="a", persistantVolumeClaim={"claimName": "b"}), "volumes.0"),
    "volume of two kinds": (_volume(name="a", emptyDir={}, secret={"secretName": "b"}), "volumes.0"),
    "mount of no volume": ({"volumeMounts": [{"name": "dat", "mountPath": "/data"}]}, "dat is none of volumes"),
    "mount over the image": (_mount("/opt/membrain-cloud"), "volumeMounts.0.mountPath"),
    "mount over fetched weights": (
        {**_mount("/models/"), "weights": [{"name": "a", "url": "https://host/a", "sha256": "0" * 64}]},
        "weights are put at /models",
    ),
    "mount over everything": (_mount("/"), "volumeMounts.0.mountPath"),
    "mount that climbs": (_mount("/data/../scratch"), "volumeMounts.0.mountPath"),
    "mount of what lies beside the volume": (_mount("/data", subPath="../other"), "volumeMounts.0.subPath"),
    "two mounts at one place": (
        {**_mount("/data"), "volumeMounts": [{"name": "data", "mountPath": path} for path in ("/data", "/data/")]},
        "volumeMounts: two are at /data/",
    ),
    "network with numbers too large": (_egress(cidr="300.0.0.1/24"), "networkPolicy.egress.0.cidr"),
    "network with a prefix too long": (_egress(cidr="192.0.2.0/64"), "networkPolicy.egress.0.cidr"),
    "port 0": (_egress(cidr="192.0.2.0/24", port=0), "networkPolicy.egress.0.port"),
    "no port, which is every port": ({"networkPolicy": {"apiServer": {"ports": []}}}, "networkPolicy.apiServer.ports"),
    "namespace that is none": ({"networkPolicy": {"operatorNamespace": "Dask Operator"}}, "operatorNamespace"),
    "minute 61": (_schedule("61 1 * * *"), "cronJob.schedule"),
    "schedule of six fields": (_schedule("0 0 1 * * *"), "cronJob.schedule"),
    "schedule with a line break": (_schedule("0 1 * * *\n"), "cronJob.schedule"),
    "time zone of the node": ({"cronJob": {"timeZone": "Local"}}, "cronJob.timeZone"),
    "seconds beyond 32 bits": ({"driver": {"ttlSecondsAfterFinished": 10**12}}, "driver.ttlSecondsAfterFinished"),
    "replicas above max": (_gpu(replicas=9), "workers.gpu.replicas: 9 is above max: 8"),
    "memory in thousandths": (
        _gpu(resources={"requests": {"memory": "16000m"}, "limits": {"memory": "16000m"}}),
        "workers.gpu.resources.limits.memory: 16000m for slots: 2 is 0.00 GiB a task",
    ),
    "memory without a unit": (
        {"driver": {"resources": {"requests": {"memory": "1"}, "limits": {"memory": "1"}}}},
        "driver.resources.limits.memory: 1 is too little",
    ),
    "slots without memory": (_gpu(slots=16), "16Gi for slots: 16 is 1.00 GiB a task"),
    "threads without cores": (_gpu(cpus=64), "workers.gpu.cpus: 64 threads share 4 cores"),
    "no workers": (
        {"workers": {"gpu": {"enabled": False}, "cpu": {"enabled": False}}},
        "workers: no group has any worker",
    ),
    "groups of no workers": (
        {"workers": {"gpu": {"max": 0}, "cpu": {"max": 0}}},
        "workers: no group has any worker",
    ),
    "cluster deleted before its driver": ({"idleTimeoutSeconds": 5}, "idleTimeoutSeconds: after 5 s"),
    "negative time-out": ({"idleTimeoutSeconds": -1}, "idleTimeoutSeconds"),
    "one account for driver and workers": (
        {"serviceAccounts": {"driver": {"name": "one"}, "workers": {"name": "one"}}},
        "workers would have the driver's rights",
    ),
    "name that begins with a digit": ({"fullnameOverride": "2026"}, "fullnameOverride"),
    "secret's name with a slash": ({"credentials": {"secretName": "../other"}}, "credentials.secretName"),
    "key of a spread that is none": ({"topologySpread": {"topologyKey": ""}}, "topologySpread.topologyKey"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_invalid_value_is_refused_by_name(render_with: RenderWith, what: str) -> None:
    values, words = REFUSED[what]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render_with("base", values)
    assert words in caught.value.stderr.replace("\n", " ")


HARMLESS: dict[str, dict[str, Any]] = {
    "words that YAML takes for others": {
        "fullnameOverride": "null",
        "env": [{"name": "A", "value": "yes"}, {"name": "B", "value": "1e3"}, {"name": "C", "value": ""}],
        "run": {"runs": ["1e3", "null", "0x10", "TS - 1"]},
        "serviceAccounts": {"driver": {"name": "true"}, "workers": {"name": "1234"}},
        "credentials": {"secretName": "123"},
        "images": {"pullSecrets": ["1.5"]},
        "monitoring": {"prometheusRule": {"enabled": True}, "podMonitor": {"enabled": True}},
    },
    "as long as it gets": {
        "nameOverride": "n" * 42,
        "env": [{"name": "A" * 1000, "value": "v" * 10_000}],
        "run": {"extraArgs": ["--set", f"segment.model=/models/{LONG}"], "runs": [LONG]},
        "serviceAccounts": {"driver": {"name": "d" * 253}},
        "tls": {"secretName": "s" * 253, "mode": "secret"},
        "credentials": {"secretName": "123"},
    },
    "quotes and letters of everywhere": {
        "env": [{"name": "A", "value": "'\"`${x} {{ .x }} \\ % ü 膜 😀 \u2028 \t\r\n# end"}],
        "run": {"settings": {"segment": {"model": "/models/膜 \"'#: {}"}}, "extraArgs": ["--set", "a='\"\\"]},
    },
    "labels that are the chart's own": {
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"app.kubernetes.io/name": "mine", "release": "x"}},
            "podMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True, "labels": {"helm.sh/chart": "mine"}},
            "dashboard": {"enabled": True, "labels": {"app.kubernetes.io/instance": "mine"}},
        }
    },
    "large and small numbers": {
        "run": {"settings": {"segment": {"block_voxels": 8_000_000_000, "threshold": 1e-7}}},
        "driver": {"ttlSecondsAfterFinished": 2**31 - 1, "activeDeadlineSeconds": 31_536_000},
        "workers": {
            "gpu": {
                "max": 10_000,
                "tolerations": [
                    {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2_000_000_000}
                ],
            }
        },
    },
    "networks of both kinds": {
        "networkPolicy": {
            "egress": [
                {"cidr": "2001:db8::/32", "port": 443},
                {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"], "port": 9},
            ]
        }
    },
    "files of credentials, and stores of three clouds": {
        "env": [
            {"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": "/keys/google.json"},
            {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/var/run/token"},
            {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        ],
        "run": {"config": "gs://bucket/config.json", "tables": "abfs://container/tables"},
    },
    "models on a volume": _mount("/models", readOnly=True),
    "schedules": _schedule("*/15,59 0-6/2 1,31 jan-DEC Mon-Fri"),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_a_strange_value_is_rendered_unchanged(render_with: RenderWith, what: str) -> None:
    objects = render_with("base", HARMLESS[what])
    assert complaints(objects, external_secrets=("123", "1.5", "s" * 253)) == []
    for one in objects:
        assert all(isinstance(text, str) for text in one["metadata"].get("labels", {}).values())
        assert isinstance(one["metadata"]["name"], str)


def test_text_and_numbers_arrive_unchanged(render_with: RenderWith) -> None:
    for what in ("quotes and letters of everywhere", "large and small numbers"):
        values = HARMLESS[what]
        objects = render_with("base", values)
        settings = next(each for each in objects if each["metadata"]["name"].endswith("-settings"))
        arrived = yaml.safe_load(settings["data"]["settings.yaml"])
        # PyYAML expects a dot in a number with an exponent, which Go omits; the settings accept the text as a number.
        if "threshold" in arrived["segment"]:
            arrived["segment"]["threshold"] = float(arrived["segment"]["threshold"])
        assert arrived == values["run"]["settings"]
        for variable in values.get("env", ()):
            (pod,) = pods_of(next(each for each in objects if each["kind"] == "Job"))
            assert variable in pod["containers"][0]["env"]


@pytest.mark.parametrize(
    ("release", "namespace"),
    [
        *(("123", "membrain"), ("1e3", "1234"), ("2026.1", "0x10"), ("true", "null"), ("y" * 53, "n" * 63)),
        ("a.b-" + "c" * 22 + "---d", "membrain"),  # cut in the middle of its hyphens
    ],
)
def test_names_of_releases_and_namespaces_stay_names(helm: str, release: str, namespace: str) -> None:
    objects = helm_template(helm, CHART / "values" / "aws.yaml", release=release, namespace=namespace)
    assert broken_rules(objects) == []
    for one in objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == release
        assert all(subject["namespace"] == namespace for subject in one.get("subjects", ()))
        # A Service's name, and the operator makes Services of a cluster's name.
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", one["metadata"]["name"])


def test_a_key_with_a_default_cannot_be_removed(render_with: RenderWith) -> None:
    """Helm removes a default that is set to null; a template would then fail with an obscure message."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render_with("base", dict.fromkeys(defaults))
    assert [key for key in defaults if f"{key} is required" not in caught.value.stderr] == []


def test_the_checker_finds_what_a_template_cannot(rendered: Callable[[str], list[Manifest]]) -> None:
    objects = copy.deepcopy(rendered("gcp"))
    policy = next(one for one in objects if one["kind"] == "NetworkPolicy")
    policy["spec"]["egress"].append({"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.0.2.0/24"]}}]})
    next(one for one in objects if one["kind"] == "CronJob")["spec"]["timeZone"] = "Mars/Olympus"
    errors = "\n".join(complaints(objects, external_secrets=("object-store-keys",)))
    assert "192.0.2.0/24 is not within 10.0.0.0/8" in errors
    assert "Mars/Olympus" in errors
