#!/usr/bin/env bash
# Looks the pinned packages up in a database of known weaknesses (OSV, by pip-audit, in an environment of its own).
# Exit code 0: none known, or the database could not be reached, which is said; 1: some are known, and listed.
#
#   deploy/audit.sh [--strict]      --strict: not being able to look is a failure too
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unreached=0
[[ ${1:-} != --strict ]] || unreached=1
tool=${PIP_AUDIT:-.venv-audit/bin/pip-audit}

not_audited() {
  echo "NOT AUDITED: $1" >&2
  exit "$unreached"
}

# Asked first, for pip-audit takes minutes to give up. A proxy may know the way that we do not.
if [[ -z ${PIP_AUDIT:-}${HTTPS_PROXY:-}${https_proxy:-} ]]; then
  python3 -c 'import socket; socket.create_connection(("api.osv.dev", 443), timeout=10).close()' 2>/dev/null ||
    not_audited "the database of known weaknesses (api.osv.dev) cannot be reached from here"
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
  echo "no known weakness in the packages of constraints.txt"
elif grep -q '^Name .*Version .*ID' "$report"; then
  cat "$report"
  exit 1
else
  not_audited "$(tail -1 "$report.errors")"
fi
