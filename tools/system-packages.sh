#!/bin/sh
# Installs the system programs that the lab uses (with --setup: only what a virtual environment needs; with --test: also
# what only tests use, those on a real cluster included, for which alone there is --e2e; DATASTORE=etcd or kubernetes:
# also etcd), if any is missing and we may; else says how. Installed servers are not started.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
"${PYTHON:-python3}" -c "import ensurepip, venv" 2>/dev/null || missing="$missing python3-venv"
if [ "${1:-}" != --setup ]; then
    need ip iproute2
    need iptables-restore iptables
    need nft nftables
    need ipset ipset
    need conntrack conntrack
    need unshare util-linux
fi
case "${DATASTORE:-}" in etcd | kubernetes) need etcd etcd-server ;; esac
if [ "${1:-}" = --test ]; then
    need podman podman
    need runc runc
fi
if [ "${1:-}" = --test ] || [ "${1:-}" = --e2e ]; then
    need containerd containerd
    need crun crun
    need etcd etcd-server
    need busybox busybox-static
    [ -x /usr/lib/cni/host-local ] || missing="$missing containernetworking-plugins"
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    policy=/usr/sbin/policy-rc.d # what systemd's part of Debian asks, which does not look at RUNLEVEL
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    fi
    apt-get update -qq >/dev/null
    # shellcheck disable=SC2086 -- a list of words
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
    # Debian enables an installed etcd for the next boot; tests start their own.
    case "$missing" in *etcd-server*) systemctl disable --quiet etcd 2>/dev/null || true ;; esac
else
    echo "System packages are missing. Install them with: sudo apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
