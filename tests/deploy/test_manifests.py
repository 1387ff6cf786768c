"""Every manifest of every values file passes every validator, and seeded mistakes are each found by one."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from check_manifests import VERSIONS, complaints, foreign_models, schema_errors
from manifest_rules import pods_of
from render import CHART, OVERLAYS, ROOT, helm_template, name_of, wanted_files

from membrain_cloud.pipeline.settings import settings_from

if TYPE_CHECKING:
    from pathlib import Path

Manifest = dict[str, Any]
Render = Callable[[str], list[Manifest]]
ALL = ("base", *OVERLAYS)
EXISTING_SECRETS = ("object-store-keys", "dask-certificates", "registry-pull")


def test_every_values_file_is_checked() -> None:
    assert sorted(path.stem for path in (CHART / "values").glob("*.yaml")) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_manifests_are_correct(rendered: Render, name: str) -> None:
    assert complaints(rendered(name), external_secrets=EXISTING_SECRETS) == []


@pytest.mark.parametrize("name", ALL)
def test_helm_lint_finds_no_error(helm: str, name: str) -> None:
    done = subprocess.run(
        [helm, "lint", "--strict", str(CHART), "--values", str(CHART / "values" / f"{name}.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ALL)
def test_what_the_operator_creates_is_correct(rendered: Render, name: str) -> None:
    """The operator's own functions build the Deployments and the Service, which are checked like the manifests."""
    controller = pytest.importorskip("dask_kubernetes.operator.controller.controller")
    created = []
    for one in rendered(name):
        labels = one["metadata"].get("labels", {})
        if one["kind"] == "DaskCluster":
            scheduler, cluster = one["spec"]["scheduler"], one["metadata"]["name"]
            created.append(controller.build_scheduler_deployment_spec(cluster, scheduler["spec"], {}, labels))
            created.append(controller.build_scheduler_service_spec(cluster, scheduler["service"], {}, labels))
        elif one["kind"] == "DaskWorkerGroup":
            group, pod = one["metadata"]["name"], one["spec"]["worker"]["spec"]
            created.append(
                controller.build_worker_deployment_spec(
                    group, "membrain", one["spec"]["cluster"], "0123456789", pod, {}, labels
                )
            )
    assert len(created) >= 3
    for deployment in created:
        assert list(schema_errors(json.loads(json.dumps(deployment)))) == []
        assert len(deployment["metadata"]["name"]) <= 63
    workers = [one for one in created if "-worker-" in one["metadata"]["name"]]
    for worker in workers:
        (container,) = worker["spec"]["template"]["spec"]["containers"]
        environment = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert environment["DASK_WORKER_NAME"] == worker["metadata"]["name"]
        # The chart's address, not the operator's with tcp://.
        assert environment["DASK_SCHEDULER_ADDRESS"].startswith("tcp://" if name == "kind" else "tls://")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_gives_what_helm_gives(rendered: Render, kubectl: str, overlay: str) -> None:
    folder = ROOT / "deploy" / "k8s" / "overlays" / overlay
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True)
    built = {name_of(one): one for one in yaml.safe_load_all(done.stdout)}
    for one in built.values():
        one["metadata"].pop("namespace", None)
    assert built == {name_of(one): one for one in rendered(overlay)}


def test_rendered_files_are_current(helm: str) -> None:
    stale = [str(path) for path, text in wanted_files(helm).items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `python deploy/render.py`"


@pytest.mark.parametrize("name", ALL)
def test_settings_of_values_files_are_settings(name: str) -> None:
    values = yaml.safe_load((CHART / "values" / f"{name}.yaml").read_text(encoding="utf-8"))
    settings_from(values.get("run", {}).get("settings", {}))


def test_all_versions_of_the_schemas_are_installed() -> None:
    """A version without a schema would check nothing."""
    wrong = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": 3}}
    errors = " ".join(schema_errors(wrong))
    assert all(f"(Kubernetes {version})" in errors for version in VERSIONS)


# Mistakes in a values file: (values, words of the error).
WRONG_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt key": ({"monitring": {}}, "monitring"),
    "misspelt key deep inside": ({"workers": {"gpu": {"nodeSelectr": {}}}}, "nodeSelectr"),
    "misspelt setting": ({"run": {"settings": {"segment": {"treshold": 1}}}}, "treshold"),
    "no such stage in settings": ({"run": {"settings": {"segmnt": {}}}}, "segmnt"),
    "setting of a wrong type": ({"run": {"settings": {"segment": {"overlap": "much"}}}}, "overlap"),
    "unquoted GPU count": ({"workers": {"gpu": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}}, "gpu"),
    "two GPUs for one worker": ({"workers": {"gpu": {"resources": {"limits": {"nvidia.com/gpu": "2"}}}}}, "gpu"),
    "unquoted cpu": ({"driver": {"resources": {"requests": {"cpu": 1}}}}, "cpu"),
    "memory that is no quantity": ({"scheduler": {"resources": {"limits": {"memory": "4 GB"}}}}, "memory"),
    "number as text": ({"driver": {"backoffLimit": "two"}}, "backoffLimit"),
    "no image": ({"images": {"cpu": {"repository": "", "digest": ""}}}, "images.cpu.repository"),
    "digest that is none": ({"images": {"cpu": {"digest": "sha256:abc"}}}, "digest"),
    "no config": ({"run": {"config": ""}}, "run.config"),
    "secret in the environment": ({"env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]}, "valueFrom"),
    "password in a URL": ({"run": {"config": "https://me:secret@host/config.json"}}, "config"),
    "TLS by a secret without its name": ({"tls": {"mode": "secret"}}, "secretName"),
    "neither TLS nor policies": ({"tls": {"mode": "none"}, "networkPolicy": {"enabled": False}}, "enabled"),
    "portal without a manifest": ({"portal": {"enabled": True}}, "config"),
    "weights without sha256": ({"weights": [{"name": "a", "url": "https://host/a"}]}, "sha256"),
    "weights that leave their folder": (
        {"weights": [{"name": "../a", "url": "https://host/a", "sha256": "0" * 64}]},
        "name",
    ),
    "a folder of the node": ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "hostPath"),
    "worker group called default": ({"workers": {"default": {"enabled": True}}}, "default"),
    "schedule that is none": ({"cronJob": {"schedule": "every night"}}, "schedule"),
    "toleration with a wrong effect": ({"workers": {"gpu": {"tolerations": [{"effect": "NoRun"}]}}}, "effect"),
}


@pytest.mark.parametrize("mistake", WRONG_VALUES)
def test_a_wrong_value_is_refused_by_helm(render_with: Callable[..., list[Manifest]], mistake: str) -> None:
    values, words = WRONG_VALUES[mistake]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render_with("base", values)
    assert words in caught.value.stderr


def _edit(kind: str, path: str, value: Any) -> Callable[[list[Manifest]], None]:
    """Return an edit that sets, or with None removes, the value at a dotted path in the first object of a kind."""

    def edit(objects: list[Manifest]) -> None:
        here: Any = next(one for one in objects if one["kind"] == kind)
        *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in way:
            here = here[part]
        if value is None:
            del here[last]
        else:
            here[last] = value

    return edit


def _drop(kind: str, ending: str = "") -> Callable[[list[Manifest]], None]:
    def drop(objects: list[Manifest]) -> None:
        objects[:] = [one for one in objects if (one["kind"], one["metadata"]["name"].endswith(ending)) != (kind, True)]

    return drop


def _bare_gpu(objects: list[Manifest]) -> None:
    group = next(one for one in objects if one["kind"] == "DaskWorkerGroup")
    group["spec"]["worker"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = 1


WORKER = "spec.worker.spec.containers.0"
DRIVER = "spec.template.spec.containers.0"
# Mistakes in a template: (the edit, words of the error).
WRONG_TEMPLATES: dict[str, tuple[Callable[[list[Manifest]], None], str]] = {
    "old command of a worker": (
        _edit("DaskWorkerGroup", f"{WORKER}.command", ["dask-worker"]),
        "no command of the image",
    ),
    "old command of a scheduler": (
        _edit("DaskCluster", "spec.scheduler.spec.containers.0.command", ["dask", "schduler"]),
        "dask has no command",
    ),
    "removed option": (_edit("DaskWorkerGroup", f"{WORKER}.args.2", "--nprocs"), "No such option"),
    "unknown verb": (_edit("Job", f"{DRIVER}.command", ["membrain-cloud", "rum"]), "no command rum"),
    "unknown field of a pod": (_edit("Job", "spec.template.spec.restartPolcy", "Never"), "restartPolcy"),
    "unknown field of a Dask pod": (_edit("DaskWorkerGroup", f"{WORKER}.imagePulPolicy", "Never"), "imagePulPolicy"),
    "unknown field of a cluster": (_edit("DaskCluster", "spec.idleTimout", 3), "idleTimout"),
    "count of a wrong type": (_edit("DaskWorkerGroup", "spec.worker.replicas", "two"), "replicas"),
    "bare GPU count": (_bare_gpu, "quote it"),
    "port as a number": (
        _edit("DaskCluster", "spec.scheduler.spec.containers.0.readinessProbe.httpGet.port", 8787),
        "port",
    ),
    "API version that is gone": (_edit("PodDisruptionBudget", "apiVersion", "policy/v1beta1"), "in policy/v1beta1"),
    "no certificate": (_drop("Certificate", "-dask"), "no object creates Secret"),
    "no config map": (_drop("ConfigMap", "-dask"), "config map"),
    "no service account": (_drop("ServiceAccount", "-workers"), "service account"),
    "no cluster": (_drop("DaskCluster"), "DaskCluster membrain-cloud-r1 is not there"),
    "no group to scale": (_drop("DaskWorkerGroup", "-gpu"), "no such worker group"),
    "no right to scale": (_edit("Role", "rules.1.resourceNames", ["another"]), "role does not let it"),
    "root user": (_edit("Job", "spec.template.spec.securityContext.runAsNonRoot", None), "runAsNonRoot"),
    "writable root": (_edit("DaskWorkerGroup", f"{WORKER}.securityContext.readOnlyRootFilesystem", False), "written"),
    "no limit of memory": (_edit("DaskWorkerGroup", f"{WORKER}.resources.limits.memory", None), "no limit of memory"),
    "unknown variable": (_edit("Job", f"{DRIVER}.args.0", "$(PROJECT)"), "$(PROJECT) is not given"),
    "secret as a value": (
        _edit("Job", f"{DRIVER}.env.0", {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
        "holds a value",
    ),
    "misspelt field of a certificate": (_edit("Certificate", "spec.secretNam", "x"), "secretNam"),
    "policy for a wrong kind of port": (_edit("NetworkPolicy", "spec.ingress.0.ports.0.port", [1]), "port"),
    "failure policy with restarts": (
        _edit("Job", "spec.template.spec.restartPolicy", "OnFailure"),
        "restartPolicy Never",
    ),
    "failure policy of another container": (
        _edit("Job", "spec.podFailurePolicy.rules.1.onExitCodes.containerName", "drvier"),
        "which is not there",
    ),
}


@pytest.mark.parametrize("mistake", WRONG_TEMPLATES)
def test_a_wrong_template_is_found(rendered: Render, mistake: str) -> None:
    objects = copy.deepcopy(rendered("base"))
    # The group with a GPU comes first: it has all fields of a group.
    objects.sort(key=lambda one: not one["metadata"]["name"].endswith("-gpu"))
    edit, words = WRONG_TEMPLATES[mistake]
    edit(objects)
    assert words in "\n".join(complaints(objects))


def test_foreign_models_find_a_wrong_type(rendered: Render) -> None:
    if foreign_models() is None:
        pytest.skip("NOT CHECKED: models of cert-manager and Prometheus operator -> deploy/get-tools.sh")
    objects = rendered("aws")
    next(one for one in objects if one["kind"] == "ServiceMonitor")["spec"]["endpoints"][0]["port"] = 9100
    assert any("ServiceMonitor" in line and "port" in line for line in complaints(objects))


def test_the_checker_as_a_command(helm: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    objects = helm_template(helm, CHART / "values" / "base.yaml")
    next(pods_of(next(one for one in objects if one["kind"] == "Job")))["hostNetwrk"] = True
    file.write_text(yaml.safe_dump_all(objects))
    program = [sys.executable, str(ROOT / "deploy" / "check_manifests.py"), str(file)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "hostNetwrk" in done.stdout
