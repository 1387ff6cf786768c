#!/usr/bin/env bash
# An environment of their own for the programs we measure ourselves against: they need numpy below 2.
#   benchmarks/peers.sh [folder]        (default benchmarks/.peers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder="${1:-benchmarks/.peers}"
python="${PYTHON:-}"
for name in python3.11 python3.12; do
  [ -n "$python" ] || { "$name" -c 'import ensurepip' >/dev/null 2>&1 && python="$name"; }
done
"${python:?needs Python 3.11 or 3.12}" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
# The same torch as ours, first and alone, so that no other is drawn in.
pip install "$(grep '^torch==' constraints.txt)"
# membrain-seg imports click, which typer no longer brings.
pip install 'numpy<2' click 'membrain-seg==0.0.10' 'membrain-pick==0.0.9' 'membrain-stats==0.0.3'
"$folder/bin/python" -m pip list 2>/dev/null | grep -Ei '^(membrain|torch|monai|numpy)'
