#!/bin/sh
# Prints the directory that holds kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl, after
# building them if they are not there: once per version, some four minutes.
#
# KUBEBUILDER_ASSETS, when set, is that directory already (as setup-envtest fills it; kubelet may be missing there).
set -eu
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    echo "$KUBEBUILDER_ASSETS"
    exit
fi
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/.*k8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' "$here/go.mod" | head -n 1)
mark=$(cat "$here/main.go" "$here/go.mod" "$here/go.sum" | sha256sum | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/calico-kernel
to=$cache/kubernetes-$version-$mark
mkdir -p "$cache"
exec 9>"$cache/kubernetes.lock"
flock 9
if [ ! -x "$to/kube-apiserver" ]; then
    command -v go >/dev/null || {
        echo "building Kubernetes $version needs Go 1.24 or newer: install it, or set KUBEBUILDER_ASSETS" >&2
        exit 1
    }
    echo "building Kubernetes $version into $to, once: some four minutes" >&2
    rm -rf "$to.new"
    mkdir -p "$to.new"
    numbers=${version#v}
    minor=${numbers#*.}
    prefix="-X k8s.io/component-base/version"
    (cd "$here" && go build -buildvcs=false -trimpath -o "$to.new/kubernetes" -ldflags "-s -w \
        $prefix.gitVersion=$version $prefix.gitMajor=${numbers%%.*} $prefix.gitMinor=${minor%%.*}" .) >&2
    for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do
        ln -s kubernetes "$to.new/$program"
    done
    rm -rf "$to"
    mv "$to.new" "$to"
fi
echo "$to"
