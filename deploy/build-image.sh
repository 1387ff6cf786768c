#!/usr/bin/env bash
# Builds the image without a daemon, as root or not, with buildah; and tries it as a cluster would run it.
#
#   deploy/build-image.sh [--variant cpu|cuda] [--base IMAGE | --base-from-debian] [--tag NAME] [--demo DIR]
#
#   --base-from-debian   no registry at hand: makes the base image from Debian's packages, with mmdebstrap
#   --demo DIR           afterwards runs `membrain-cloud demo --small` in the image, as user 10001 with a root file
#                        system that cannot be written, and leaves its result in DIR
#
# pip in the build is set up as pip is here: its settings go in as a build secret, not into the image, and local folders
# that they name (find-links, indexes at file://) are mounted read-only. PIP_FOLDERS: more of them, comma-separated.
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
    *) echo "error: $1 is not known -> see the first lines of $0" >&2; exit 2 ;;
  esac
done
tag=${tag:-localhost/membrain-cloud:$variant}
base_tag=localhost/membrain-cloud-base:3.11
storage=(--storage-driver "${STORAGE_DRIVER:-vfs}")

need() {
  command -v "$1" >/dev/null || { echo "error: $1 is not here -> install it (Debian: apt-get install $1)" >&2; exit 3; }
}

scratch=$(mktemp -d)
container=
tidy() {
  [[ -z $container ]] || buildah "${storage[@]}" rm "$container" >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap tidy EXIT

make_base() {
  need mmdebstrap
  buildah "${storage[@]}" images --format '{{.Name}}:{{.Tag}}' | grep -qx "$base_tag" && return
  echo "base image from Debian's packages"
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    bookworm "$scratch/base.tar"
  local made
  made=$(buildah "${storage[@]}" from scratch)
  buildah "${storage[@]}" add --quiet "$made" "$scratch/base.tar" / >/dev/null
  buildah "${storage[@]}" commit --quiet --rm "$made" "$base_tag" >/dev/null
  rm "$scratch/base.tar"
}

# What pip is told here by its files and by PIP_*, written as one file; prints the local folders in it.
pip_settings() {
  python3 - "$scratch/pip.conf" <<'PY'
import subprocess, sys
from pathlib import Path
lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
told = {}
for line in lines.splitlines():
    name, _, value = line.partition("=")
    section, _, key = name.rpartition(".")
    if section in ("global", "install", ":env:") and key not in ("cert", "constraint", "quiet", "user", "target"):
        told.setdefault(key, value.strip("'").replace("\\n", " "))
with open(sys.argv[1], "w") as out:
    out.write("[global]\n" + "".join(f"{key} = {value}\n" for key, value in told.items()))
words = " ".join(told.get(key, "") for key in ("find-links", "index-url", "extra-index-url")).split()
places = {Path(word.removeprefix("file://").removesuffix("/simple")) for word in words}
print(*sorted(str(place) for place in places if place.is_absolute() and place.is_dir()), sep=",")
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
# Behind a gateway with a certificate of its own, the build trusts what this machine trusts.
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
