#!/usr/bin/env bash
# Check the pinned packages for known vulnerabilities (OSV, with pip-audit in an environment of its own).
# Exit code 0: none is known, or the database cannot be reached (then NOT AUDITED is printed); 1: the list of them.
#
#   deploy/audit.sh [--strict]      --strict: exit with 1 also where the database cannot be reached
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unreached=0
[[ ${1:-} != --strict ]] || unreached=1
tool=${PIP_AUDIT:-.venv-audit/bin/pip-audit}

not_audited() {
  echo "NOT AUDITED: $1" >&2
  exit "$unreached"
}

# Tested first, since pip-audit takes minutes to give up. A proxy may reach it where a direct connection does not.
if [[ -z ${PIP_AUDIT:-}${HTTPS_PROXY:-}${https_proxy:-} ]]; then
  python3 -c 'import socket; socket.create_connection(("api.osv.dev", 443), timeout=10).close()' 2>/dev/null ||
    not_audited "the database of vulnerabilities (api.osv.dev) cannot be reached from here"
fi
if [[ ! -x $tool ]]; then
  { python3 -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet 'pip-audit==2.10.1'; } >/dev/null 2>&1 ||
    not_audited "pip-audit could not be installed"
fi
report=$(mktemp)
trap 'rm -f "$report" "$report.errors"' EXIT
code=0
"$tool" --requirement constraints.txt --no-deps --disable-pip --vulnerability-service osv --progress-spinner off \
  --timeout 10 --format columns >"$report" 2>"$report.errors" || code=$?
if ((code == 0)); then
  echo "no known vulnerability in the packages of constraints.txt"
elif grep -q '^Name .*Version .*ID' "$report"; then
  cat "$report"
  exit 1
else
  not_audited "$(tail -1 "$report.errors")"
fi
