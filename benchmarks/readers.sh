#!/usr/bin/env bash
# Environments of their own for the readers that cannot share ours; tests that need an absent one are skipped.
#   benchmarks/readers.sh [copick1] [napari] [tensorstore]        (default: all; in benchmarks/.readers)
# copick 1.31 needs zarr below 3, napari-ome-zarr Python 3.12. $PYTHON overrides the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder="${READERS:-benchmarks/.readers}"
declare -A packages=(
  [copick1]='copick==1.31.0 copick-utils==1.10.2'
  [napari]='napari-ome-zarr==0.11.0 ome-zarr-models==1.8.1'
  [tensorstore]='tensorstore==0.1.86'
)
declare -A pythons=(
  [copick1]='python3.11 python3.12 python3.13'
  [napari]='python3.13 python3.12'
  [tensorstore]='python3.11 python3.12 python3.13'
)
[ $# -gt 0 ] || set -- copick1 napari tensorstore
for name in "$@"; do
  [ -n "${packages[$name]:-}" ] || { echo "$name: not one of ${!packages[*]}" >&2; exit 2; }
  python="${PYTHON:-}"
  for candidate in ${pythons[$name]}; do
    [ -n "$python" ] || { "$candidate" -c 'import ensurepip' >/dev/null 2>&1 && python="$candidate"; } || true
  done
  [ -n "$python" ] || { echo "$name: needs one of ${pythons[$name]}" >&2; exit 1; }
  "$python" -m venv "$folder/$name"
  read -ra wanted <<<"${packages[$name]}"
  "$folder/$name/bin/python" -m pip --quiet --disable-pip-version-check install "${wanted[@]}"
  "$folder/$name/bin/python" -m pip --disable-pip-version-check list 2>/dev/null | grep -Ei '^(copick|copick-utils|zarr|napari-ome-zarr|ome-zarr|ome-zarr-models|tensorstore|numpy) '
done
