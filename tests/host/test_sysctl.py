"""Settings are those of the namespace that the thread lives in."""

from __future__ import annotations

import pytest

from calico_kernel.host import netns as namespaces
from calico_kernel.host import sysctl

pytestmark = pytest.mark.node


def test_a_setting_written_in_one_namespace_is_not_seen_in_another(netns: str, netns_name: str) -> None:
    other = f"{netns_name}s"
    namespaces.create(other)
    try:
        before = sysctl.read("net.ipv4.conf.all.proxy_arp")
        with namespaces.entered(other):
            sysctl.write("net/ipv4/conf/all/proxy_arp", 1)
            assert sysctl.read("net.ipv4.conf.all.proxy_arp") == "1"
        assert before == sysctl.read("net.ipv4.conf.all.proxy_arp") == "0"
    finally:
        namespaces.delete(other)


def test_ensure_writes_only_what_differs(netns: str) -> None:
    sysctl.write("net.ipv4.ip_forward", 0)
    assert sysctl.ensure("net.ipv4.ip_forward", 1) is True
    assert sysctl.ensure("net.ipv4.ip_forward", 1) is False


def test_a_setting_that_does_not_exist_is_file_not_found(netns: str) -> None:
    with pytest.raises(FileNotFoundError):
        sysctl.read("net.ipv4.no_such_setting")
