"""Rubbish on the socket: each request is refused with a reason, nothing is half applied, the next one is served."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from calico_kernel.host import netns as namespaces
from calico_kernel.model.keys import ResourceQuery

pytestmark = pytest.mark.node

STRANGE: list[Any] = [
    None,
    True,
    -1,
    10**30,
    1e308,
    "",
    "x" * 5000,
    "\u0000",
    "'; rm -rf / #",
    "../../etc/passwd",
    [],
    [[[[]]]],
    {},
    {"cniVersion": "1.0.0"},
    ["10.0.0.0/8"] * 50,
    "10.65.0.0/99",
    "\ud800",
]
KEYS = [
    "cniVersion",
    "name",
    "type",
    "ipam",
    "mtu",
    "num_queues",
    "policy",
    "args",
    "runtimeConfig",
    "prevResult",
    "nodename",
    "require_mtu_file",
    "container_settings",
    "feature_control",
    "policy_setup_timeout_seconds",
]
VARIABLES = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"]


def test_a_thousand_malformed_requests_are_refused_and_the_next_is_served(
    node: Any, workload: Callable[[], str]
) -> None:
    chance = random.Random(20260101)
    name = workload()
    good = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": namespaces.path_of(name),
        "CNI_IFNAME": "eth0",
    }
    refused = 0
    for number in range(1000):
        environment: dict[str, Any] = dict(
            good, CNI_CONTAINERID=f"c{number}", CNI_COMMAND=chance.choice(["ADD", "DEL"])
        )
        conf: Any = node.conf()
        kind = number % 4
        if kind == 0:
            environment[chance.choice(VARIABLES)] = chance.choice(STRANGE)
        elif kind == 1:
            conf[chance.choice(KEYS)] = chance.choice(STRANGE)
        elif kind == 2:
            text = json.dumps(conf)
            cut = chance.randrange(len(text))
            conf = text[:cut] + chance.choice(["", "\\", "{", '"', "\x7f"]) + text[cut + chance.randrange(4) :]
        else:
            conf["ipam"] = {
                "type": "calico-ipam",
                chance.choice(["assign_ipv4", "ipv4_pools", "type"]): chance.choice(STRANGE),
            }
        document = conf if isinstance(conf, str) else json.dumps(conf)
        answer = node.service.handle({"env": environment, "config": document, "_fds": []})
        said = json.loads(answer["stdout"]) if answer["stdout"] else {}
        if answer["status"]:
            refused += 1
            assert isinstance(said["code"], int) and said["code"] != 999 and said["msg"], (environment, document, said)
        elif environment["CNI_COMMAND"] == "ADD":  # the change did no harm
            done = node.service.handle({"env": {**environment, "CNI_COMMAND": "DEL"}, "config": document})
            assert done["status"] == 0, done
    assert refused > 400
    assert node.nothing_left()
    node.add("c1", name)


@pytest.mark.parametrize(
    "request_", [{}, {"env": 1}, {"env": {"CNI_COMMAND": 1}, "config": "{}"}, {"env": {}, "config": None}, {"env": {}}]
)
def test_requests_without_shape_are_refused(node: Any, request_: dict[str, Any]) -> None:
    answer = node.service.handle(request_)
    assert answer["status"] == 1
    assert json.loads(answer["stdout"])["code"] in (4, 6)


def test_frames_that_are_no_frames_do_not_stop_the_agent(node: Any, workload: Callable[[], str]) -> None:
    frames = [
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 5) + b"{",
        struct.pack(">I", 2) + b"[]",
        os.urandom(64),
    ]
    frames += [struct.pack(">I", 1 << 20) + b"{" * 1000]
    for frame in frames:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, contextlib.suppress(OSError):
            client.connect(node.socket_path)
            client.sendall(frame)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(10)
            assert b'"ok":false' in client.recv(4096)
    node.add("c1", workload())


def test_a_configuration_that_is_too_large_is_refused_by_the_executable(node: Any) -> None:
    answer = node.run("ADD", "c1", "/proc/self/ns/net", conf=json.dumps(node.conf(filler="x" * (1 << 20))))
    assert (answer.status, answer.said["code"]) == (1, 7)


@pytest.mark.parametrize("namespace", ["../x", "a/b", "A", "x" * 300])
def test_a_namespace_that_cannot_be_one_leaves_no_profile(
    node: Any, workload: Callable[[], str], namespace: str
) -> None:
    before = node.store.list([ResourceQuery("Profile")]).records
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": namespaces.path_of(workload()),
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"K8S_POD_NAME=web;K8S_POD_NAMESPACE={namespace}",
    }
    answer = node.service.handle({"env": environment, "config": json.dumps(node.conf()), "_fds": []})
    assert answer["status"] == 1
    assert node.store.list([ResourceQuery("Profile")]).records == before
    assert node.nothing_left()


def test_an_add_for_another_node_is_refused_at_once(node: Any, workload: Callable[[], str]) -> None:
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": namespaces.path_of(workload()),
        "CNI_IFNAME": "eth0",
    }
    conf = {**node.conf(), "nodename": "somebody-else"}
    answer = node.service.handle({"env": environment, "config": json.dumps(conf), "_fds": []})
    said = json.loads(answer["stdout"])
    assert (said["code"], "is not this agent's node" in said["msg"]) == (7, True)
    assert node.nothing_left()
