"""Check manifests without a cluster, as strictly as an API server would, and by the rules of this house.

helm template ... | python deploy/check_manifests.py -        or files, or `--values my-values.yaml` to render first

Built-in kinds: Kubernetes' own schemas of several versions, strict (an unknown field is an error). Dask's kinds: the
schemas of the operator's CRDs, closed, and each pod in them as a Kubernetes pod. cert-manager and Prometheus operator:
their models where deploy/get-tools.sh could bring them, and the keys known here. Then manifest_rules.py.
Needs the `test` extra. Exit code 1 with one line a complaint.
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

# Keys of foreign kinds that the chart may use; their models let unknown ones pass.
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
    """Everything that is wrong with these manifests, which are one installation. Empty: nothing.

    external_secrets : names of Secrets that the cluster's people promise to be there.
    """
    objects = list(manifests)
    found = [line for one in objects for line in _kept_schema_errors(json.dumps(one, sort_keys=True))]
    found += foreign_model_errors(objects)
    found += broken_rules(objects, external_secrets)
    return list(dict.fromkeys(found))


@cache
def _kept_schema_errors(text: str) -> tuple[str, ...]:
    return tuple(schema_errors(json.loads(text)))


def schema_errors(manifest: Manifest) -> Iterator[str]:
    """What the schema of its kind says."""
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
        yield f"the Dask operator knows no {manifest.get('kind')} of {manifest.get('apiVersion')}"
        return
    for error in Draft7Validator(schema).iter_errors(manifest):
        yield f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"


@cache
def operator_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) -> closed schema of each kind of the operator. Raises without dask-kubernetes."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for file in distribution("dask-kubernetes").files or ():
        if file.parent.name != "crds" or file.suffix != ".yaml":
            continue
        crd = _Loader(Path(str(file.locate())).read_text(encoding="utf-8")).get_single_data()
        for version in crd["spec"]["versions"]:
            key = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
            found[key] = _closed(version["schema"]["openAPIV3Schema"], top=True)
    return found


def _closed(schema: Any, *, top: bool = False) -> Any:
    """With unknown keys forbidden, as kubectl's strict validation does; `int-or-string` made words of JSON schema."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(part) for key, part in schema.items() if key != "properties"}
    if made.get("x-kubernetes-int-or-string"):
        made = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if "properties" in schema:
        properties = {name: _closed(part) for name, part in schema["properties"].items()}
        if top:
            properties |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        made["properties"] = properties
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    return made


def _foreign_errors(manifest: Manifest) -> Iterator[str]:
    kind, spec = str(manifest.get("kind")), manifest.get("spec") or {}
    if kind not in FOREIGN_KEYS:
        yield f"no rule knows the kind {kind} -> add it to FOREIGN_KEYS of deploy/check_manifests.py"
        return
    yield from (f"spec.{key}: unknown" for key in spec.keys() - FOREIGN_KEYS[kind])
    for endpoint in [*spec.get("endpoints", ()), *spec.get("podMetricsEndpoints", ())]:
        yield from (f"endpoint.{key}: unknown" for key in endpoint.keys() - ENDPOINT_KEYS)


def foreign_models() -> Path | None:
    """Folder with the models of foreign kinds, where node and deploy/get-tools.sh have brought them."""
    folder = ROOT / ".tools"
    there = (folder / "node_modules" / "@kubernetes-models" / "cert-manager").is_dir()
    return folder if there and shutil.which("node") else None


def foreign_model_errors(manifests: list[Manifest]) -> list[str]:
    """What the published models of cert-manager and the Prometheus operator say; nothing where they are not here."""
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
    parser.add_argument("--values", action="append", default=[], help="render the chart with these values first")
    parser.add_argument("--secret", action="append", default=[], help="name of a Secret that is there already")
    asked = parser.parse_args()
    objects: list[Manifest] = []
    if asked.values or not asked.files:
        from render import find_helm, helm_template

        helm = find_helm()
        if helm is None:
            parser.error("helm is not here -> deploy/get-tools.sh, or give rendered files")
        objects += helm_template(helm, *map(Path, asked.values))
    for file in asked.files:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        objects += [copy.deepcopy(one) for one in yaml.safe_load_all(text) if one]
    lines = complaints(objects, external_secrets=asked.secret)
    print("\n".join(lines) if lines else f"{len(objects)} objects: nothing to complain about")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
