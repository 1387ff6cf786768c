"""Rules for manifests beyond their schemas: commands exist, names have targets, pods are locked down.

Each rule is a function that takes all objects of an installation and yields one line for each error.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import zoneinfo
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Manifest = dict[str, Any]
ENVIRONMENT = re.compile(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
# Variables that the Dask operator adds to a worker's environment.
OPERATOR_VARIABLES = {"DASK_WORKER_NAME", "DASK_SCHEDULER_ADDRESS"}
# Variables that hold the path of a file with credentials.
FILE_NAME = re.compile(
    "AWS_(SHARED_CREDENTIALS|WEB_IDENTITY_TOKEN|CONTAINER_AUTHORIZATION_TOKEN)_FILE"
    "|GOOGLE_APPLICATION_CREDENTIALS|AZURE_FEDERATED_TOKEN_FILE"
)
SECRET_NAME = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|ACCESS_KEY|PRIVATE_KEY|API_KEY", re.IGNORECASE)


def broken_rules(objects: list[Manifest], external_secrets: Iterable[str] = ()) -> list[str]:
    """Return one line for each broken rule.

    Parameters
    ----------
    objects : list of dict
        All objects of one installation.
    external_secrets : iterable of str
        Names of Secrets that exist in the cluster already. Default: none.
    """
    errors = [line for rule in RULES for line in rule(objects)]
    return errors + list(_missing_secrets(objects, set(external_secrets)))


def pods_of(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the pod specs of an object of any kind."""
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
    """Return whether a pod spec is that of the default worker group, which the operator requires and never starts."""
    worker = (manifest.get("spec") or {}).get("worker") or {}
    return manifest.get("kind") == "DaskCluster" and pod is worker.get("spec") and worker.get("replicas") == 0


def _containers(objects: list[Manifest]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the location, the pod and the container of all containers, init containers included."""
    for manifest in objects:
        for pod in pods_of(manifest):
            if _is_placeholder(manifest, pod):
                continue
            for container in [*(pod.get("initContainers") or ()), *(pod.get("containers") or ())]:
                where = f"{manifest['kind']}/{manifest['metadata']['name']}: container {container.get('name')}"
                yield where, pod, container


def commands_exist(objects: list[Manifest]) -> Iterator[str]:
    """Yield the command lines that the installed version does not parse, e.g. with a removed option."""
    for where, _, container in _containers(objects):
        command = [*(container.get("command") or ()), *(container.get("args") or ())]
        error = _command_error([str(word) for word in command])
        if error:
            yield f"{where}: {error}"


def _command_error(words: list[str]) -> str | None:
    """Return the error of a container's command line, or None where it is correct."""
    program = words[0] if words else ""
    if program == "python3":
        return _python_error(words[2])
    try:
        command, rest = _dask_command(words) if program == "dask" else _membrain_cloud_command(words)
    except LookupError as error:
        return str(error.args[0])
    # `dask worker` takes unknown words for arguments of a preload script; here they are mistakes.
    settings = {name: value for name, value in command.context_settings.items() if name != "ignore_unknown_options"}
    try:
        command.make_parser(click.Context(command, **settings)).parse_args(rest)
    except click.UsageError as error:
        return f"{' '.join(words[:2])}: {error.format_message()}"
    return None


def _python_error(code: str) -> str | None:
    try:
        compile(code, "inline", "exec")
    except SyntaxError as error:
        return f"its Python does not compile: {error}"
    return None


def _dask_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command of Dask and its arguments; raise LookupError if there is none."""
    from distributed.cli import dask_scheduler, dask_worker

    commands = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    if len(words) < 2 or words[1] not in commands:
        raise LookupError(f"dask has no command {' '.join(words[1:2])}")
    return commands[words[1]], words[2:]


def _membrain_cloud_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command of membrain-cloud and its arguments; raise LookupError if there is none."""
    from membrain_cloud.cli import main

    if words[:1] != ["membrain-cloud"]:
        raise LookupError(f"{words[:1]} is no command of the image")
    command: click.Command = main
    rest = words[1:]
    while isinstance(command, click.Group):
        subcommand = command.get_command(click.Context(command), rest[0]) if rest else None
        if subcommand is None:
            raise LookupError(f"membrain-cloud has no command {' '.join(rest[:1])}")
        command, rest = subcommand, rest[1:]
    return command, rest


def variables_are_given(objects: list[Manifest]) -> Iterator[str]:
    """Yield variables $(NAME) in arguments that the container lacks: Kubernetes would pass the text itself on."""
    for where, _, container in _containers(objects):
        variables = {variable["name"] for variable in container.get("env") or ()} | OPERATOR_VARIABLES
        for word in [*(container.get("command") or ()), *(container.get("args") or ())]:
            yield from (
                f"{where}: $({name}) is not given" for name in ENVIRONMENT.findall(str(word)) if name not in variables
            )


def containers_are_locked_down(objects: list[Manifest]) -> Iterator[str]:
    """Yield deviations from Kubernetes' profile `restricted`, a read-only root and a limit of memory."""
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
    """Yield quantities that are no strings: an API server refuses a bare 1 for a GPU within Dask's kinds."""
    for where, _, container in _containers(objects):
        for part in ("requests", "limits"):
            for name, value in ((container.get("resources") or {}).get(part) or {}).items():
                if not isinstance(value, str):
                    yield f'{where}: {part}.{name}: {value} -> quote it: "{value}"'


def secrets_by_reference(objects: list[Manifest]) -> Iterator[str]:
    """Yield secrets whose value is in a manifest."""
    for where, _, container in _containers(objects):
        for variable in container.get("env") or ():
            is_file = FILE_NAME.fullmatch(variable["name"]) and str(variable.get("value")).startswith("/")
            if SECRET_NAME.search(variable["name"]) and "value" in variable and not is_file:
                yield f"{where}: {variable['name']} holds a value -> give it by valueFrom.secretKeyRef"
    yield from (
        f"Secret/{one['metadata']['name']}: a Secret in the manifests" for one in objects if one["kind"] == "Secret"
    )


def names_have_targets(objects: list[Manifest]) -> Iterator[str]:
    """Yield named config maps, service accounts, volumes and clusters that do not exist."""
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for manifest in objects:
        here = f"{manifest['kind']}/{manifest['metadata']['name']}"
        for pod in pods_of(manifest):
            if not _is_placeholder(manifest, pod):
                yield from (f"{here}: {line}" for line in _missing_names(pod, names))
        cluster = (manifest.get("spec") or {}).get("cluster")
        if manifest["kind"] == "DaskWorkerGroup" and ("DaskCluster", cluster) not in names:
            yield f"{here}: DaskCluster {cluster} is not there"


def _missing_names(pod: dict[str, Any], names: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the names in a pod spec that are neither among the objects nor among its volumes."""
    account = pod.get("serviceAccountName")
    if any(kind == "ServiceAccount" for kind, _ in names) and ("ServiceAccount", account) not in names:
        yield f"service account {account} is not there"
    volumes = {volume.get("name"): volume for volume in pod.get("volumes") or ()}
    for volume in volumes.values():
        name = (volume.get("configMap") or {}).get("name")
        if name and ("ConfigMap", name) not in names:
            yield f"config map {name} is not there"
    for container in [*(pod.get("initContainers") or ()), *(pod.get("containers") or ())]:
        for mount in container.get("volumeMounts") or ():
            if mount["name"] not in volumes:
                yield f"container {container['name']} mounts {mount['name']}, which is no volume"


def scaled_groups_are_allowed(objects: list[Manifest]) -> Iterator[str]:
    """Yield groups that the driver scales and that do not exist, or that its role does not allow."""
    groups = {one["metadata"]["name"] for one in objects if one["kind"] == "DaskWorkerGroup"}
    allowed = {
        name
        for one in objects
        if one["kind"] == "Role"
        for rule in one.get("rules") or ()
        if "daskworkergroups/scale" in rule.get("resources", ()) and "patch" in rule.get("verbs", ())
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
    """Yield errors of podFailurePolicy that an API server finds beyond its schema."""
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
                yield f"{here}: podFailurePolicy has no action {rule['action']}"
            container = (rule.get("onExitCodes") or {}).get("containerName")
            if container is not None and container not in names:
                yield f"{here}: podFailurePolicy names container {container}, which is not there"


def policies_meet_pods(objects: list[Manifest]) -> Iterator[str]:
    """Yield an error where neither a NetworkPolicy nor TLS protects Dask."""
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    encrypted = any("require-encryption: true" in str(one.get("data")) for one in objects if one["kind"] == "ConfigMap")
    if not policies and not encrypted:
        yield "Dask is open to every pod: there is neither TLS nor a NetworkPolicy"


def networks_and_zones_exist(objects: list[Manifest]) -> Iterator[str]:
    """Yield invalid networks, exceptions outside their network, and unknown time zones."""
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
                yield f"{here}: no time zone {spec['timeZone']} -> write it like Europe/Berlin or Etc/UTC"


def _block_errors(block: dict[str, Any] | None) -> Iterator[str]:
    if block is None:
        return
    try:
        network = ipaddress.ip_network(block["cidr"])
        exceptions = [ipaddress.ip_network(one) for one in block.get("except") or ()]
    except ValueError as error:
        yield f"{error} -> write the first address of the network and its length, e.g. 192.0.2.0/24"
        return
    for one in exceptions:
        if one.version != network.version or not one.subnet_of(network):  # type: ignore[arg-type]
            yield f"{one} is not within {network}"


def _missing_secrets(objects: list[Manifest], external: set[str]) -> Iterator[str]:
    created = {one["spec"]["secretName"] for one in objects if one["kind"] == "Certificate" and one.get("spec")}
    for manifest in objects:
        for pod in pods_of(manifest):
            for name in _secrets_of(pod):
                if name not in created | external:
                    here = f"{manifest['kind']}/{manifest['metadata']['name']}"
                    yield f"{here}: no object creates Secret {name} -> create it, and name it with --secret"


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
    names_have_targets,
    scaled_groups_are_allowed,
    failure_policies_hold,
    policies_meet_pods,
    networks_and_zones_exist,
)
