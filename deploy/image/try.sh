#!/usr/bin/env bash
# Try an unpacked image as a strict cluster runs it: user 10001, a read-only root file system, /scratch as the only
# writable folder, no capability. Needs root (mount namespaces), but neither a daemon nor a container runtime.
#
#   deploy/image/try.sh ROOT [DEMO_DIR]
set -euo pipefail
root=$(readlink -f "$1")
demo=${2:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 1777 "$scratch"

# inside COMMAND...: run it in the image. All mounts are in a namespace of their own and disappear with it.
inside() {
  unshare --mount --pid --ipc --fork --mount-proc -- bash -euc '
    root=$1 scratch=$2; shift 2
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 none "$root/dev"
    for device in null zero full random urandom; do
      touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777 none "$root/dev/shm"
    ln -s /proc/self/fd "$root/dev/fd"
    mount --bind "$scratch" "$root/scratch"
    mount -o remount,bind,ro "$root"
    exec setpriv --no-new-privs chroot --userspec=10001:10001 --groups= "$root" env -i --chdir=/scratch \
      PATH=/opt/membrain-cloud/bin:/usr/local/bin:/usr/bin:/bin HOME=/scratch USER=membrain TMPDIR=/scratch PYTHONUNBUFFERED=1 \
      MPLCONFIGDIR=/scratch/matplotlib NUMBA_CACHE_DIR=/scratch/numba XDG_CACHE_HOME=/scratch/cache \
      MEMBRAIN_CLOUD_CACHE=/scratch/models OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$@"
  ' inside "$root" "$scratch" "$@"
}

check() {
  local what=$1; shift
  if "$@" >"$scratch/.output" 2>&1; then echo "ok: $what"; else
    echo "FAILED: $what"; tail -20 "$scratch/.output"; exit 1
  fi
}
refused() { ! "$@"; }

check "--help, without a GPU" inside membrain-cloud --help
check "user 10001" inside python3 -c 'import os; assert os.getuid() == os.getgid() == 10001 and not os.getgroups()'
check "no capability" inside python3 -c '
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0 and status["NoNewPrivs"].strip() == "1"'
for place in / /opt/membrain-cloud /etc /tmp; do
  check "$place cannot be written" inside python3 -c '
import errno, sys
try:
    open(sys.argv[1] + "/written", "w")
except OSError as error:
    assert error.errno in (errno.EROFS, errno.EACCES), error
else:
    raise SystemExit("it was written")' "$place"
done
check "no pip" refused inside python3 -m pip --version
check "the cluster's commands" inside sh -c 'dask scheduler --help && dask worker --help'
check "bill of materials" inside python3 -c '
import json
listed = json.load(open("/opt/membrain-cloud/share/membrain-cloud/sbom.cdx.json"))["components"]
assert {"torch", "distributed", "zarr"} <= {part["name"] for part in listed}, len(listed)'
if [[ -n $demo ]]; then
  check "membrain-cloud demo --small" inside membrain-cloud demo /scratch/demo --small
  mkdir -p "$demo"
  cp -r "$scratch/demo/." "$demo/"
  test -s "$demo/report.html"
fi
