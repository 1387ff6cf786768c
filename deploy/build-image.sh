#!/usr/bin/env bash
# Build the image with buildah, without a daemon, as root or not, and try it as a cluster would run it.
#
#   deploy/build-image.sh [--variant cpu|cuda] [--base IMAGE | --base-from-debian] [--tag NAME] [--demo DIR]
#
#   --variant            torch for the CPU or for CUDA (default: cpu)
#   --base IMAGE         base image (default: that of the Dockerfile)
#   --base-from-debian   make the base image from Debian's packages with mmdebstrap, where no registry is reachable
#   --tag NAME           name of the image (default: localhost/membrain-cloud:VARIANT)
#   --demo DIR           run `membrain-cloud demo --small` in the image, as user 10001 with a read-only root file system,
#                        and leave its result in DIR
#
# pip in the build has the settings of pip here. They are passed as a build secret and do not enter the image; local
# folders that they name (find-links, indexes at file://) are mounted read-only. PIP_FOLDERS: further folders,
# comma-separated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

variant=cpu base= from_debian= tag= demo=
while (($#)); do
  case $1 in
    --variant) variant=$2; shift 2 ;;
    --base) base=$2; shift 2 ;;
    --base-from-debian) from_debian=yes; shift ;;
    --tag) tag=$2; shift 2 ;;
    --demo) demo=$2; shift 2 ;;
    *) echo "error: unknown option $1 -> see the first lines of $0" >&2; exit 2 ;;
  esac
done
tag=${tag:-localhost/membrain-cloud:$variant}
base_tag=localhost/membrain-cloud-base:3.11
storage=(--storage-driver "${STORAGE_DRIVER:-vfs}")

need() {
  command -v "$1" >/dev/null || { echo "error: $1 is not installed -> Debian: apt-get install $1" >&2; exit 3; }
}

scratch=$(mktemp -d)
container=
cleanup() {
  [[ -z $container ]] || buildah "${storage[@]}" rm "$container" >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap cleanup EXIT

make_base() {
  need mmdebstrap
  buildah "${storage[@]}" images --format '{{.Name}}:{{.Tag}}' | grep -qx "$base_tag" && return
  echo "base image from Debian's packages"
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    bookworm "$scratch/base.tar"
  local base_container
  base_container=$(buildah "${storage[@]}" from scratch)
  buildah "${storage[@]}" add --quiet "$base_container" "$scratch/base.tar" / >/dev/null
  buildah "${storage[@]}" commit --quiet --rm "$base_container" "$base_tag" >/dev/null
  rm "$scratch/base.tar"
}

# Write the settings of pip here, from its files and PIP_*, to one file, and print the local folders that they name.
pip_settings() {
  python3 - "$scratch/pip.conf" <<'PY'
import subprocess, sys
from pathlib import Path
lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
settings = {}
for line in lines.splitlines():
    name, _, value = line.partition("=")
    section, _, key = name.rpartition(".")
    if section in ("global", "install", ":env:") and key not in ("cert", "constraint", "quiet", "user", "target"):
        settings.setdefault(key, value.strip("'").replace("\\n", " "))
with open(sys.argv[1], "w") as out:
    out.write("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
words = " ".join(settings.get(key, "") for key in ("find-links", "index-url", "extra-index-url")).split()
folders = {Path(word.removeprefix("file://").removesuffix("/simple")) for word in words}
print(*sorted(str(folder) for folder in folders if folder.is_absolute() and folder.is_dir()), sep=",")
PY
  chmod 600 "$scratch/pip.conf"
}

need buildah
if [[ -n $from_debian ]]; then
  make_base
  base=$base_tag
fi

volumes=()
IFS=, read -ra folders <<<"$(pip_settings),${PIP_FOLDERS:-}"
for folder in "${folders[@]}"; do [[ -z $folder ]] || volumes+=(--volume "$folder:$folder:ro"); done
# The build trusts the certificates that this machine trusts, such as those of a gateway.
[[ ! -d /etc/ssl/certs ]] || volumes+=(--volume /etc/ssl/certs:/etc/ssl/certs:ro)

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git rev-parse --verify HEAD 2>/dev/null || echo unknown)
arguments=(--build-arg "VARIANT=$variant" --build-arg "VERSION=$version" --build-arg "REVISION=$revision")
[[ -z $base ]] || arguments+=(--build-arg "BASE=$base")
[[ -z ${EXTRAS:-} ]] || arguments+=(--build-arg "EXTRAS=$EXTRAS")
buildah "${storage[@]}" bud --isolation chroot --pull-never --format oci "${arguments[@]}" "${volumes[@]}" \
  --secret "id=pip.conf,src=$scratch/pip.conf" --tag "$tag" .

container=$(buildah "${storage[@]}" from --pull-never "$tag")
root=$(buildah "${storage[@]}" mount "$container")
echo "image $tag: $(du -sm "$root" | cut -f1) MiB unpacked"
deploy/image/try.sh "$root" ${demo:+"$demo"}
buildah "${storage[@]}" unmount "$container" >/dev/null
