#!/bin/sh
# Installs the system programs that the lab and the tests use, if any is missing and we may; else says how.
set -eu
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
PATH="$PATH:/usr/sbin:/sbin"
need ip iproute2
need iptables-restore iptables
need nft nftables
need ipset ipset
need conntrack conntrack
need unshare util-linux
[ -x /usr/lib/cni/host-local ] || missing="$missing containernetworking-plugins"
[ -z "$missing" ] && exit 0
install="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
else
    echo "System packages are missing. Install them with: sudo $install" >&2
    exit 1
fi
