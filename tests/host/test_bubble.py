"""The bubble keeps tests apart from the machine and from each other."""

from __future__ import annotations

import os
import subprocess

import pytest

from calico_kernel.host import bubble, netns

pytestmark = pytest.mark.node


def _links() -> set[str]:
    listed = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    return {line.split(": ")[1].split("@")[0] for line in listed.splitlines()}


def test_inside_a_bubble_we_are_root_with_loopback_only() -> None:
    assert bubble.inside()
    assert os.geteuid() == 0
    assert _links() == {"lo"}


def test_a_namespace_created_by_name_is_seen_by_iproute2(netns_name: str) -> None:
    netns.create(netns_name)
    try:
        assert netns_name in subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout
        with pytest.raises(FileExistsError):
            netns.create(netns_name)
    finally:
        netns.delete(netns_name)
    assert netns_name not in netns.names()
    netns.delete(netns_name)


def test_the_netns_fixture_isolates_devices(netns: str) -> None:
    subprocess.run(["ip", "link", "add", "here0", "type", "veth", "peer", "name", "here1"], check=True)
    assert {"here0", "here1", "lo"} == _links()


def test_run_in_leaves_the_calling_thread_where_it_was(netns: str, netns_name: str) -> None:
    from calico_kernel.host import netns as module

    other = f"{netns_name}x"
    module.create(other)
    try:
        before = os.readlink("/proc/thread-self/ns/net")
        inside = module.run_in(other, lambda: os.readlink("/proc/thread-self/ns/net"))
        assert inside != before
        assert os.readlink("/proc/thread-self/ns/net") == before
    finally:
        module.delete(other)


def test_the_exit_status_of_the_command_is_kept() -> None:
    inner = bubble.command(["sh", "-c", "exit 7"])
    assert subprocess.run(inner, check=False).returncode == 7
