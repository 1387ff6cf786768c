#!/usr/bin/env bash
# Build kube-apiserver and kube-controller-manager for deploy/rehearsal_api.py where they cannot be downloaded: from the
# source package of Debian 12, the last one with all of Kubernetes (1.20; later ones contain kubectl alone).
#
#   deploy/get-api-server.sh [FOLDER]        default: .tools/kubernetes; then PATH="FOLDER/bin:$PATH"
#
# Needs Debian 12, and as root: apt-get install etcd-server golang-go golang-github-modern-go-reflect2-dev openssl
# Takes ten minutes on two cores and 4 GiB of disk. Prefer a server of your own cluster's version if you have one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "${1:-.tools/kubernetes}"
folder=$(readlink -f "${1:-.tools/kubernetes}")
version=1.20.5+really1.20.2

for program in go apt-get openssl; do
  command -v "$program" >/dev/null || { echo "error: $program is not installed -> see the first lines of $0" >&2; exit 3; }
done
reflect2=/usr/share/gocode/src/github.com/modern-go/reflect2
[[ -d $reflect2 ]] || { echo "error: golang-github-modern-go-reflect2-dev is not installed -> apt-get install it" >&2; exit 3; }

# apt's lists and settings are in a temporary folder; those of the machine stay as they are.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main" \
  >"$scratch/sources.list"
apt=(apt-get --quiet=2 -o "Dir::Etc::SourceList=$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$scratch" && "${apt[@]}" source --download-only kubernetes)

export GO111MODULE=off GOFLAGS='' GOPATH="$folder/go" GOCACHE="${GOCACHE:-$folder/cache}"
source=$GOPATH/src/k8s.io/kubernetes
rm -rf "$source"
mkdir -p "$source"
tar -xzf "$scratch/kubernetes_$version.orig.tar.gz" --strip-components=1 -C "$source"
cd "$source"
# The bundled copy of reflect2 reads maps in a way that crashes with Go 1.18 and newer.
rm -f vendor/github.com/modern-go/reflect2/*.go vendor/github.com/modern-go/reflect2/*.s
cp "$reflect2"/*.go "$reflect2"/*.s vendor/github.com/modern-go/reflect2/

# Generate the OpenAPI descriptions of the kinds, which are not in the source package.
go build -o "$folder/bin/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
described() {
  (cd "$1" && grep -rl '+k8s:openapi-gen=' --include='*.go' "${@:2}") | grep -vE '_test\.go$|_examples|sample-|/testdata/|generators' |
    xargs -n1 dirname | sort -u
}
kinds=$({ described . pkg | sed 's#^#k8s.io/kubernetes/#'; described staging/src k8s.io | sed 's#^#k8s.io/kubernetes/vendor/#'; } |
  sort -u | paste -sd,)
"$folder/bin/openapi-gen" --logtostderr --input-dirs "$kinds" --output-package k8s.io/kubernetes/pkg/generated/openapi \
  --output-file-base zz_generated.openapi --output-base "$GOPATH/src" --report-filename "$scratch/report" \
  --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt
go build -o "$folder/bin/kube-apiserver" ./cmd/kube-apiserver
go build -o "$folder/bin/kube-controller-manager" ./cmd/kube-controller-manager
echo "PATH=\"$folder/bin:\$PATH\" python deploy/rehearsal_api.py"
