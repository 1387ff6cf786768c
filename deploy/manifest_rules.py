"""Rules of this house for manifests: commands that exist, names that lead somewhere, pods that are locked down.

A schema cannot know these. Each rule is a function from all objects of an installation to its complaints.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import zoneinfo
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Manifest = dict[str, Any]
ENVIRONMENT = re.compile(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
# What the Dask operator adds to a worker's environment.
OPERATOR_GIVES = {"DASK_WORKER_NAME", "DASK_SCHEDULER_ADDRESS"}
SECRET_NAME = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|ACCESS_KEY|PRIVATE_KEY|API_KEY", re.IGNORECASE)


def broken_rules(objects: list[Manifest], external_secrets: Iterable[str] = ()) -> list[str]:
    """One line for each broken rule."""
    found = [line for rule in RULES for line in rule(objects)]
    return found + list(_missing_secrets(objects, set(external_secrets)))


def pods_of(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The pod specs in an object of any kind that has some."""
    spec = manifest.get("spec") or {}
    kind = manifest.get("kind")
    if kind == "Pod":
        yield spec
    elif kind == "CronJob":
        yield from pods_of({"kind": "Job", "spec": spec.get("jobTemplate", {}).get("spec")})
    elif kind in ("Job", "Deployment"):
        yield (spec.get("template") or {}).get("spec") or {}
    elif kind in ("DaskCluster", "DaskWorkerGroup"):
        for part in ("scheduler", "worker"):
            pod = (spec.get(part) or {}).get("spec")
            if isinstance(pod, dict):
                yield pod


def _is_placeholder(manifest: Manifest, pod: dict[str, Any]) -> bool:
    """The default group of workers, which the operator insists on: it never has a pod."""
    worker = (manifest.get("spec") or {}).get("worker") or {}
    return manifest.get("kind") == "DaskCluster" and pod is worker.get("spec") and worker.get("replicas") == 0


def _containers(objects: list[Manifest]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(where, pod, container) of all, init containers included."""
    for manifest in objects:
        for pod in pods_of(manifest):
            if _is_placeholder(manifest, pod):
                continue
            for container in [*(pod.get("initContainers") or ()), *(pod.get("containers") or ())]:
                where = f"{manifest['kind']}/{manifest['metadata']['name']}: container {container.get('name')}"
                yield where, pod, container


def commands_exist(objects: list[Manifest]) -> Iterator[str]:
    """Each command line parses with the command of the installed version: a removed option or name is found here."""
    for where, _, container in _containers(objects):
        command = [*(container.get("command") or ()), *(container.get("args") or ())]
        complaint = _unknown_command([str(word) for word in command])
        if complaint:
            yield f"{where}: {complaint}"


def _unknown_command(words: list[str]) -> str | None:
    import click

    if words[:1] == ["python3"]:
        try:
            compile(words[2], "inline", "exec")
        except SyntaxError as error:
            return f"its Python does not compile: {error}"
        return None
    if words[:1] == ["dask"]:
        from distributed.cli import dask_scheduler, dask_worker

        verbs = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
        if len(words) < 2 or words[1] not in verbs:
            return f"dask has no command {' '.join(words[1:2])}"
        command: click.Command = verbs[words[1]]
        rest = words[2:]
    elif words[:1] == ["membrain-cloud"]:
        from membrain_cloud.cli import main

        command, rest = main, words[1:]
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), rest[0]) if rest else None
            if found is None:
                return f"membrain-cloud has no command {' '.join(rest[:1])}"
            command, rest = found, rest[1:]
    else:
        return f"{words[:1]} is no command of the image"
    # `dask worker` takes words that it does not know for arguments of a preload script; here they are mistakes.
    settings = {name: value for name, value in command.context_settings.items() if name != "ignore_unknown_options"}
    try:
        command.make_parser(click.Context(command, **settings)).parse_args(list(rest))
    except click.UsageError as error:
        return f"{' '.join(words[:2])}: {error.format_message()}"
    return None


def variables_are_given(objects: list[Manifest]) -> Iterator[str]:
    """$(NAME) in arguments is a variable of the container: an unknown one would be passed on as it stands."""
    for where, _, container in _containers(objects):
        given = {variable["name"] for variable in container.get("env") or ()} | OPERATOR_GIVES
        for word in [*(container.get("command") or ()), *(container.get("args") or ())]:
            yield from (
                f"{where}: $({name}) is not given" for name in ENVIRONMENT.findall(str(word)) if name not in given
            )


def containers_are_locked_down(objects: list[Manifest]) -> Iterator[str]:
    """What Kubernetes' profile `restricted` asks for, a read-only root, and limits of memory and disk."""
    for where, pod, container in _containers(objects):
        own = container.get("securityContext") or {}
        if not (pod.get("securityContext") or {}).get("runAsNonRoot"):
            yield f"{where}: runAsNonRoot is not set"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: allowPrivilegeEscalation is not false"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: its root file system may be written"
        if (own.get("capabilities") or {}).get("drop") != ["ALL"]:
            yield f"{where}: capabilities are not dropped"
        if "memory" not in (container.get("resources") or {}).get("limits", {}):
            yield f"{where}: no limit of memory"
        if not container.get("image"):
            yield f"{where}: no image"


def counts_are_quoted(objects: list[Manifest]) -> Iterator[str]:
    """Quantities are strings: an API server refuses a bare 1 for a GPU within Dask's kinds."""
    for where, _, container in _containers(objects):
        for part in ("requests", "limits"):
            for name, value in ((container.get("resources") or {}).get(part) or {}).items():
                if not isinstance(value, str):
                    yield f'{where}: {part}.{name}: {value} -> quote it: "{value}"'


def secrets_by_reference(objects: list[Manifest]) -> Iterator[str]:
    """No secret's value in a manifest."""
    for where, _, container in _containers(objects):
        for variable in container.get("env") or ():
            if SECRET_NAME.search(variable["name"]) and "value" in variable:
                yield f"{where}: {variable['name']} holds a value -> give it by valueFrom.secretKeyRef"
    yield from (
        f"Secret/{one['metadata']['name']}: a Secret in the manifests" for one in objects if one["kind"] == "Secret"
    )


def names_lead_somewhere(objects: list[Manifest]) -> Iterator[str]:
    """Config maps, service accounts, volumes, clusters and worker groups that are named are there."""
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    accounts = {name for kind, name in there if kind == "ServiceAccount"}
    for manifest in objects:
        here = f"{manifest['kind']}/{manifest['metadata']['name']}"
        for pod in pods_of(manifest):
            if _is_placeholder(manifest, pod):
                continue
            account = pod.get("serviceAccountName")
            if accounts and account not in accounts:
                yield f"{here}: service account {account} is not there"
            volumes = {volume.get("name"): volume for volume in pod.get("volumes") or ()}
            for volume in volumes.values():
                name = (volume.get("configMap") or {}).get("name")
                if name and ("ConfigMap", name) not in there:
                    yield f"{here}: config map {name} is not there"
            for container in [*(pod.get("initContainers") or ()), *(pod.get("containers") or ())]:
                for mount in container.get("volumeMounts") or ():
                    if mount["name"] not in volumes:
                        yield f"{here}: container {container['name']} mounts {mount['name']}, which is no volume"
        cluster = (manifest.get("spec") or {}).get("cluster")
        if manifest["kind"] == "DaskWorkerGroup" and ("DaskCluster", cluster) not in there:
            yield f"{here}: DaskCluster {cluster} is not there"


def scaled_groups_are_allowed(objects: list[Manifest]) -> Iterator[str]:
    """Each group that the driver is told to scale is there, and its role lets it."""
    groups = {one["metadata"]["name"] for one in objects if one["kind"] == "DaskWorkerGroup"}
    allowed = {
        name
        for one in objects
        if one["kind"] == "Role"
        for rule in one.get("rules") or ()
        if "daskworkergroups" in rule.get("resources", ()) and "patch" in rule.get("verbs", ())
        for name in rule.get("resourceNames", ())
    }
    for where, _, container in _containers(objects):
        words = container.get("args") or []
        for option, value in itertools.pairwise(words):
            if option != "--scale":
                continue
            name = str(value).partition("=")[2].rpartition(":")[0]
            if name not in groups:
                yield f"{where}: --scale {value}: no such worker group"
            if name not in allowed:
                yield f"{where}: --scale {value}: the driver's role does not let it"


def failure_policies_hold(objects: list[Manifest]) -> Iterator[str]:
    """What an API server asks of podFailurePolicy beyond its schema."""
    for manifest in objects:
        spec = manifest.get("spec") or {}
        job = (spec.get("jobTemplate") or {}).get("spec") or {} if manifest["kind"] == "CronJob" else spec
        policy = job.get("podFailurePolicy") if manifest["kind"] in ("Job", "CronJob") else None
        if policy is None:
            continue
        here = f"{manifest['kind']}/{manifest['metadata']['name']}"
        pod = job["template"]["spec"]
        if pod.get("restartPolicy") != "Never":
            yield f"{here}: podFailurePolicy needs restartPolicy Never, not {pod.get('restartPolicy')}"
        names = {container["name"] for container in [*pod["containers"], *(pod.get("initContainers") or ())]}
        for rule in policy["rules"]:
            if rule["action"] not in ("Ignore", "FailJob", "Count", "FailIndex"):
                yield f"{here}: podFailurePolicy knows no action {rule['action']}"
            container = (rule.get("onExitCodes") or {}).get("containerName")
            if container is not None and container not in names:
                yield f"{here}: podFailurePolicy names container {container}, which is not there"


def policies_meet_pods(objects: list[Manifest]) -> Iterator[str]:
    """Every Dask pod is under a NetworkPolicy, or Dask is under TLS."""
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    encrypted = any("require-encryption: true" in str(one.get("data")) for one in objects if one["kind"] == "ConfigMap")
    if not policies and not encrypted:
        yield "neither TLS nor a NetworkPolicy keeps strangers from Dask"


def networks_and_zones_exist(objects: list[Manifest]) -> Iterator[str]:
    """What an API server reckons: addresses, what is left out of a network, time zones."""
    for manifest in objects:
        here, spec = f"{manifest['kind']}/{manifest['metadata']['name']}", manifest.get("spec") or {}
        if manifest["kind"] == "NetworkPolicy":
            for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
                for peer in [*(rule.get("from") or ()), *(rule.get("to") or ())]:
                    yield from (f"{here}: {line}" for line in _block_errors(peer.get("ipBlock")))
        if manifest["kind"] == "CronJob" and "timeZone" in spec:
            try:
                zoneinfo.ZoneInfo(spec["timeZone"])
            except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
                yield f"{here}: no time zone {spec['timeZone']} -> as in Europe/Berlin or Etc/UTC"


def _block_errors(block: dict[str, Any] | None) -> Iterator[str]:
    if block is None:
        return
    try:
        network = ipaddress.ip_network(block["cidr"])
        without = [ipaddress.ip_network(one) for one in block.get("except") or ()]
    except ValueError as error:
        yield f"{error} -> the first address of a network and its length: 192.0.2.0/24"
        return
    for one in without:
        if one.version != network.version or not one.subnet_of(network):  # type: ignore[arg-type]
            yield f"{one} is not within {network}"


def _missing_secrets(objects: list[Manifest], external: set[str]) -> Iterator[str]:
    made = {one["spec"]["secretName"] for one in objects if one["kind"] == "Certificate" and one.get("spec")}
    for manifest in objects:
        for pod in pods_of(manifest):
            for name in _secrets_of(pod):
                if name not in made | external:
                    here = f"{manifest['kind']}/{manifest['metadata']['name']}"
                    yield f"{here}: Secret {name} is made by nothing here -> make it, and promise it with --secret"


def _secrets_of(pod: dict[str, Any]) -> Iterator[str]:
    for volume in pod.get("volumes") or ():
        if "secret" in volume:
            yield volume["secret"].get("secretName")
    for reference in pod.get("imagePullSecrets") or ():
        yield reference.get("name")
    for container in [*(pod.get("initContainers") or ()), *(pod.get("containers") or ())]:
        for source in container.get("envFrom") or ():
            if "secretRef" in source:
                yield source["secretRef"].get("name")
        for variable in container.get("env") or ():
            reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if reference:
                yield reference.get("name")


RULES: tuple[Callable[[list[Manifest]], Iterator[str]], ...] = (
    commands_exist,
    variables_are_given,
    containers_are_locked_down,
    counts_are_quoted,
    secrets_by_reference,
    names_lead_somewhere,
    scaled_groups_are_allowed,
    failure_policies_hold,
    policies_meet_pods,
    networks_and_zones_exist,
)
