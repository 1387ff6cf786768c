"""Check manifests without a cluster, as strictly as an API server does, and against the rules of manifest_rules.py.

helm template ... | python deploy/check_manifests.py -        or files, or `--values my-values.yaml` to render first

Built-in kinds are checked against Kubernetes' own schemas of several versions; an unknown field is an error. Dask's
kinds are checked against the operator's CRDs, closed to unknown fields, and each pod in them as a Kubernetes pod.
cert-manager's and the Prometheus operator's kinds are checked against the keys listed here, and against their models
where deploy/get-tools.sh has installed them. Needs the extra `test`. Exit code 1 and one line for each error.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from manifest_rules import broken_rules, pods_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1]
VERSIONS = tuple(f"1.{minor}" for minor in range(26, 38))
Manifest = dict[str, Any]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the CRDs are a megabyte

# Keys of foreign kinds that the chart may use; their models accept unknown ones.
FOREIGN_KEYS: dict[str, set[str]] = {
    "Issuer": {"selfSigned", "ca"},
    "Certificate": {
        *("secretName", "commonName", "dnsNames", "duration", "isCA", "issuerRef", "privateKey", "usages"),
    },
    "ServiceMonitor": {"selector", "endpoints"},
    "PodMonitor": {"selector", "podMetricsEndpoints"},
    "PrometheusRule": {"groups"},
}
ENDPOINT_KEYS = {"port", "interval", "path"}


def complaints(manifests: Iterable[Manifest], *, external_secrets: Iterable[str] = ()) -> list[str]:
    """Return one line for each error in the manifests of one installation.

    Parameters
    ----------
    manifests : iterable of dict
        All objects of the installation.
    external_secrets : iterable of str
        Names of Secrets that exist in the cluster already. Default: none.

    Returns
    -------
    list of str
        The errors, each once; empty for correct manifests.
    """
    objects = list(manifests)
    errors = [line for one in objects for line in _cached_schema_errors(json.dumps(one, sort_keys=True))]
    errors += foreign_model_errors(objects)
    errors += broken_rules(objects, external_secrets)
    return list(dict.fromkeys(errors))


@cache
def _cached_schema_errors(text: str) -> tuple[str, ...]:
    return tuple(schema_errors(json.loads(text)))


def schema_errors(manifest: Manifest) -> Iterator[str]:
    """Yield the errors of a manifest against the schema of its kind."""
    name = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
    group = str(manifest.get("apiVersion", "")).rpartition("/")[0]
    if group == "kubernetes.dask.org":
        yield from (f"{name}: {line}" for line in _crd_errors(manifest))
        for pod in pods_of(manifest):
            as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
            yield from (f"{name}: pod: {line}" for line in _builtin_errors(as_pod))
    elif group in ("cert-manager.io", "monitoring.coreos.com"):
        yield from (f"{name}: {line}" for line in _foreign_errors(manifest))
    else:
        yield from (f"{name}: {line}" for line in _builtin_errors(manifest))


def _builtin_errors(manifest: Manifest) -> Iterator[str]:
    import kubernetes_validate

    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            yield f"{where}: {error.message} (Kubernetes {version})"
        except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError):
            yield f"no kind {manifest.get('kind')} in {manifest.get('apiVersion')} (Kubernetes {version})"


def _crd_errors(manifest: Manifest) -> Iterator[str]:
    from jsonschema import Draft7Validator

    schema = operator_schemas().get((str(manifest.get("apiVersion")), str(manifest.get("kind"))))
    if schema is None:
        yield f"the Dask operator has no kind {manifest.get('kind')} of {manifest.get('apiVersion')}"
        return
    for error in Draft7Validator(schema).iter_errors(manifest):
        yield f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"


@cache
def operator_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the closed schema of each kind of the operator, by (apiVersion, kind); needs dask-kubernetes."""
    schemas: dict[tuple[str, str], dict[str, Any]] = {}
    for file in distribution("dask-kubernetes").files or ():
        if file.parent.name != "crds" or file.suffix != ".yaml":
            continue
        crd = _Loader(Path(str(file.locate())).read_text(encoding="utf-8")).get_single_data()
        for version in crd["spec"]["versions"]:
            key = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
            schemas[key] = _closed(version["schema"]["openAPIV3Schema"], top=True)
    return schemas


def _closed(schema: Any, *, top: bool = False) -> Any:
    """Return a schema that forbids unknown keys, as kubectl's strict validation does, with plain `int-or-string`."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items() if key != "properties"}
    if closed.get("x-kubernetes-int-or-string"):
        closed = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if "properties" in schema:
        properties = {name: _closed(part) for name, part in schema["properties"].items()}
        if top:
            properties |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        closed["properties"] = properties
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed


def _foreign_errors(manifest: Manifest) -> Iterator[str]:
    kind, spec = str(manifest.get("kind")), manifest.get("spec") or {}
    if kind not in FOREIGN_KEYS:
        yield f"the kind {kind} has no rule -> add it to FOREIGN_KEYS of deploy/check_manifests.py"
        return
    yield from (f"spec.{key}: unknown" for key in spec.keys() - FOREIGN_KEYS[kind])
    for endpoint in [*spec.get("endpoints", ()), *spec.get("podMetricsEndpoints", ())]:
        yield from (f"endpoint.{key}: unknown" for key in endpoint.keys() - ENDPOINT_KEYS)


def foreign_models() -> Path | None:
    """Return the folder with the models of foreign kinds, or None where they or node are not installed."""
    folder = ROOT / ".tools"
    are_installed = (folder / "node_modules" / "@kubernetes-models" / "cert-manager").is_dir()
    return folder if are_installed and shutil.which("node") else None


def foreign_model_errors(manifests: list[Manifest]) -> list[str]:
    """Return the errors against the models of cert-manager and the Prometheus operator; none without the models."""
    folder = foreign_models()
    foreign = [one for one in manifests if "cert-manager.io" in str(one) or "monitoring.coreos.com" in str(one)]
    if folder is None or not foreign:
        return []
    command = ["node", str(ROOT / "deploy" / "check-models.mjs"), str(folder)]
    done = subprocess.run(command, input=json.dumps(foreign), capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="YAML files, or - for standard input")
    parser.add_argument(
        "--values", action="append", default=[], help="render the chart with this values file first (repeatable)"
    )
    parser.add_argument(
        "--secret", action="append", default=[], help="name of a Secret that exists in the cluster already (repeatable)"
    )
    arguments = parser.parse_args()
    objects: list[Manifest] = []
    if arguments.values or not arguments.files:
        from render import find_helm, helm_template

        helm = find_helm()
        if helm is None:
            parser.error("helm is not installed -> run deploy/get-tools.sh, or give rendered files")
        objects += helm_template(helm, *map(Path, arguments.values))
    for file in arguments.files:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        objects += [copy.deepcopy(one) for one in yaml.safe_load_all(text) if one]
    lines = complaints(objects, external_secrets=arguments.secret)
    print("\n".join(lines) if lines else f"{len(objects)} objects: no errors")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
