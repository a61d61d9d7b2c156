"""What a node does when things go wrong around it: somebody flushes its rules, kills it, or feeds it rubbish.

One real node: SQLite, iptables, the agent as a process of its own; packets are real.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calico_kernel.host import netns
from calico_kernel.model import keys
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.policy import EntityRule, Rule
from calico_kernel.testing import node as rigs
from calico_kernel.testing.node import NodeRig

pytestmark = [pytest.mark.node, pytest.mark.slow]

PORT = 7000
PATIENCE_S = 20.0


class Listener:
    """Counts what arrives at a workload, by payload."""

    def __init__(self, number: int) -> None:
        with netns.entered(rigs.name_of(number)):
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sock.bind(("0.0.0.0", PORT))
        self._sock.settimeout(0.2)
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self.seen.add(self._sock.recv(64))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._sock.close()


_payloads = iter(range(1 << 40))


def send(source: int, target: int) -> bytes:
    """One datagram of a new flow; what it carried."""
    payload = str(next(_payloads)).encode()
    with (
        netns.entered(rigs.name_of(source)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow,
        contextlib.suppress(OSError),
    ):
        flow.sendto(payload, (rigs.address_of(target), PORT))
    return payload


def passes(listener: Listener, source: int, target: int, *, wait_s: float = 0.3) -> bool:
    payload = send(source, target)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if payload in listener.seen:
            return True
        time.sleep(0.005)
    return False


def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < patience_s, f"never happened: {what}"
        time.sleep(0.01)


DENY_KEY, DENY = rigs.policy(
    "deny-1",
    order=1.0,
    selector="number == '1'",
    types=("Ingress",),
    ingress=(Rule(action="Deny", protocol="UDP", destination=EntityRule(ports=(PORT,))),),
)


@pytest.fixture
def rig(netns: str) -> Iterator[NodeRig]:
    """Three workloads; 0 may reach 2, nobody may reach 1."""
    with NodeRig(workloads=3, policy_count=3) as rig:
        rig.store.create(DENY_KEY, DENY)
        rig.start_agent()
        yield rig


@pytest.fixture
def listeners(rig: NodeRig) -> Iterator[dict[int, Listener]]:
    listeners = {number: Listener(number) for number in range(3)}
    yield listeners
    for listener in listeners.values():
        listener.close()


def enforced(listeners: dict[int, Listener]) -> bool:
    return passes(listeners[2], 0, 2) and not passes(listeners[1], 0, 1, wait_s=0.1)


def iptables_backend() -> str:
    """The program of the back end that the agent chose: the one with our chains."""
    for program in ("iptables-legacy", "iptables-nft"):
        listed = subprocess.run([program, "-w", "-S"], check=False, capture_output=True, text=True)
        if "cali-FORWARD" in listed.stdout:
            return program
    raise AssertionError("no back end has our chains")


def test_the_node_enforces(rig: NodeRig, listeners: dict[int, Listener]) -> None:
    until(lambda: enforced(listeners), "0 reaches 2 and not 1")


def test_flushed_rules_come_back(rig: NodeRig, listeners: dict[int, Listener]) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    program = iptables_backend()
    subprocess.run([program, "-w", "-F"], check=True)
    until(lambda: not passes(listeners[1], 0, 1, wait_s=0.05), "1 is protected again")
    until(lambda: enforced(listeners), "the node enforces again")


def test_a_destroyed_ip_set_comes_back(rig: NodeRig, listeners: dict[int, Listener]) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    program = iptables_backend()
    names = subprocess.run(["ipset", "list", "-n"], check=True, capture_output=True, text=True).stdout.split()
    ours = [name for name in names if name.startswith("cali")]
    assert ours
    subprocess.run([program, "-w", "-F"], check=True)  # a set that rules refer to cannot be destroyed
    subprocess.run([program, "-w", "-X"], check=False)
    for name in ours:
        subprocess.run(["ipset", "destroy", name], check=False, capture_output=True)

    def back() -> bool:
        listed = subprocess.run(["ipset", "list", "-n"], check=True, capture_output=True, text=True).stdout.split()
        return set(ours) <= set(listed)

    until(back, "the sets are back")
    until(lambda: enforced(listeners), "the node enforces again")


def test_killed_at_random_moments_nothing_forbidden_passes_and_nothing_allowed_is_lost(
    rig: NodeRig, listeners: dict[int, Listener]
) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    chance = random.Random(3)
    sent: dict[int, list[bytes]] = {1: [], 2: []}
    stop = threading.Event()

    def stream() -> None:
        while not stop.is_set():
            for target, payloads in sent.items():
                payloads.append(send(0, target))
            time.sleep(0.002)

    sender = threading.Thread(target=stream)
    sender.start()
    try:
        for _ in range(4):
            time.sleep(chance.uniform(0.0, 0.4))
            assert rig.agent is not None
            os.kill(rig.agent.pid, signal.SIGKILL)
            rig.agent.wait()
            key, value = rigs.policy(
                f"churn-{chance.random()}", order=5.0, selector="number == '9'", types=("Ingress",)
            )
            rig.store.create(key, value)
            rig.start_agent()
    finally:
        stop.set()
        sender.join()
    assert len(sent[2]) > 50
    until(lambda: listeners[2].seen.issuperset(sent[2]), "all that is allowed arrives")
    assert not [payload for payload in sent[1] if payload in listeners[1].seen]
    until(lambda: enforced(listeners), "the node enforces")


def test_while_the_agent_is_down_enforcement_stays_and_a_restart_rewrites_nothing(
    rig: NodeRig, listeners: dict[int, Listener]
) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    program = iptables_backend()

    def rules() -> str:
        saved = subprocess.run([f"{program}-save"], check=True, capture_output=True, text=True).stdout
        return "\n".join(line for line in saved.splitlines() if not line.startswith(("#", ":")))

    before = rules()
    rig.stop_agent()
    until(lambda: passes(listeners[2], 0, 2), "what is allowed passes")
    assert not passes(listeners[1], 0, 1)
    assert rules() == before
    rig.start_agent()
    time.sleep(0.5)
    assert rules() == before
    until(lambda: passes(listeners[2], 0, 2), "what is allowed passes")
    assert not passes(listeners[1], 0, 1)


def test_a_renamed_interface_is_not_trusted_and_one_that_vanishes_stops_nothing(
    rig: NodeRig, listeners: dict[int, Listener]
) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    subprocess.run(["ip", "link", "set", rigs.interface_of(0), "down"], check=True)
    subprocess.run(["ip", "link", "set", rigs.interface_of(0), "name", "califoreign"], check=True)
    subprocess.run(["ip", "link", "set", "califoreign", "up"], check=True)
    subprocess.run(["ip", "route", "replace", f"{rigs.address_of(0)}/32", "dev", "califoreign"], check=True)
    time.sleep(0.3)
    assert not passes(listeners[2], 0, 2)
    subprocess.run(["ip", "link", "del", "califoreign"], check=True)
    until(lambda: passes(listeners[2], 1, 2), "1 still reaches 2")


def test_hostile_resources_are_refused_one_by_one_and_the_rest_is_enforced(
    rig: NodeRig, listeners: dict[int, Listener]
) -> None:
    """Written past every validation, straight into the store, as a broken or malicious client would."""
    until(lambda: enforced(listeners), "the node enforces")
    chance = random.Random(11)
    rubbish = [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\x00\xfe",
        b'{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":7},"spec":[]}',
        b'{"kind":"Pod","spec":{}}',
        b'{"kind":"GlobalNetworkSet","apiVersion":"projectcalico.org/v3","metadata":{"name":"x"},"spec":{"nets":["999.1.1.1/99"]}}',
        b"[" * 50_000,
        b'{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"x"},"spec":{"selector":"'
        + b"(" * 5_000
        + b'"}}',
        b'{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"x"},"spec":{"selector":"has(',
    ]
    plurals = ["globalnetworkpolicies", "globalnetworksets", "hostendpoints", "ippools", "nodes", "tiers", "profiles"]
    paths = [f"/calico/resources/v3/projectcalico.org/{plural}/bad-{n}" for n in range(150) for plural in plurals]
    assert len(paths) >= 1000
    write_raw(rig, {path: chance.choice(rubbish) for path in paths})
    key, value = rigs.policy(
        "after-the-flood",
        order=0.5,
        selector="number == '2'",
        types=("Ingress",),
        ingress=(Rule(action="Deny", protocol="UDP", destination=EntityRule(ports=(PORT,))),),
    )
    rig.store.create(key, value)
    until(lambda: not passes(listeners[2], 0, 2, wait_s=0.1), "the policy after the flood is enforced")
    rig.store.delete(key)
    until(lambda: enforced(listeners), "the node enforces")
    assert rig.agent is not None
    assert rig.agent.poll() is None


def test_an_endpoint_whose_profile_or_tier_is_missing_is_denied(rig: NodeRig, listeners: dict[int, Listener]) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    rig.store.delete(ResourceKey("GlobalNetworkPolicy", "", "zz-allow"))
    until(lambda: not passes(listeners[2], 0, 2, wait_s=0.1), "nothing allows it any more")
    for record in rig.store.list([keys.ResourceQuery("GlobalNetworkPolicy")]).records:
        rig.store.delete(record.key)
    until(lambda: passes(listeners[2], 0, 2), "the profile allows it")
    rig.store.delete(ResourceKey("Profile", "", "kns.default"))
    until(lambda: not passes(listeners[2], 0, 2, wait_s=0.1), "a profile that is missing denies")


@pytest.mark.parametrize("trouble", ["slow", "failing"])
def test_a_slow_or_failing_restore_delays_and_harms_nothing_else(
    rig: NodeRig, listeners: dict[int, Listener], tmp_path: Path, trouble: str
) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    rig.stop_agent()
    flag = tmp_path / "trouble"
    for name in ("iptables-legacy-restore", "iptables-nft-restore", "iptables-restore"):
        wrapper = tmp_path / name
        act = "sleep 1" if trouble == "slow" else "cat >/dev/null; exit 1"
        wrapper.write_text(f'#!/bin/sh\nif [ -e {flag} ]; then {act}; fi\nexec /usr/sbin/{name} "$@"\n')
        wrapper.chmod(0o755)
    rig.start_agent(environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    flag.touch()
    key, value = rigs.policy(
        "deny-2",
        order=0.5,
        selector="number == '2'",
        types=("Ingress",),
        ingress=(Rule(action="Deny", protocol="UDP", destination=EntityRule(ports=(PORT,))),),
    )
    rig.store.create(key, value)
    time.sleep(0.5)
    assert not passes(listeners[1], 0, 1, wait_s=0.1)
    if trouble == "failing":
        flag.unlink()
    until(lambda: not passes(listeners[2], 0, 2, wait_s=0.1), "the policy is enforced in the end")
    assert rig.agent is not None
    assert rig.agent.poll() is None


def children(pid: int) -> Iterator[tuple[int, bytes]]:
    """Processes started by ``pid``, with their command lines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    yield int(entry.name), (entry / "cmdline").read_bytes()


def test_restore_programs_that_somebody_kills_delay_and_open_nothing(
    rig: NodeRig, listeners: dict[int, Listener]
) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    assert rig.agent is not None
    agent, stop, killed = rig.agent, threading.Event(), []

    def kill() -> None:
        while not stop.wait(0.001):
            for pid, command in children(agent.pid):
                if b"restore" in command:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for number in range(200):
            key, value = rigs.policy(
                "flapping",
                order=0.5,
                selector="number == '2'",
                types=("Ingress",),
                ingress=(Rule(action="Deny", protocol="TCP", destination=EntityRule(ports=(number + 1,))),),
            )
            rig.store.create(key, value)
            assert not passes(listeners[1], 0, 1, wait_s=0.03)
            rig.store.delete(key)
            if len(killed) >= 5:
                break
    finally:
        stop.set()
        killer.join()
    assert killed
    until(lambda: enforced(listeners), "the node enforces")
    assert agent.poll() is None


def test_a_stopped_agent_catches_up_with_what_was_written_and_broken_meanwhile(
    rig: NodeRig, listeners: dict[int, Listener]
) -> None:
    until(lambda: enforced(listeners), "the node enforces")
    program = iptables_backend()
    assert rig.agent is not None
    os.kill(rig.agent.pid, signal.SIGSTOP)
    subprocess.run([program, "-w", "-F"], check=True)
    key, value = rigs.policy(
        "deny-2", order=0.5, selector="number == '2'", types=("Ingress",), ingress=(Rule(action="Deny"),)
    )
    rig.store.create(key, value)
    os.kill(rig.agent.pid, signal.SIGCONT)
    until(lambda: not passes(listeners[2], 0, 2, wait_s=0.05), "the new policy is enforced")
    until(lambda: not passes(listeners[1], 0, 1, wait_s=0.05), "the old one as well")
    rig.store.delete(key)
    until(lambda: enforced(listeners), "the node enforces")


def test_a_datastore_that_is_replaced_under_the_agent_is_followed(rig: NodeRig, listeners: dict[int, Listener]) -> None:
    """Somebody restores a backup: the file is another one now."""
    until(lambda: enforced(listeners), "the node enforces")
    database = rig.database
    backup = database.with_suffix(".backup")
    with contextlib.closing(sqlite3.connect(database)) as source:
        source.execute("VACUUM INTO ?", [str(backup)])
    for path in (database, Path(f"{database}-wal"), Path(f"{database}-shm")):
        path.unlink(missing_ok=True)
    backup.rename(database)
    rig.reopen_store()
    rig.store.delete(DENY_KEY)
    until(lambda: passes(listeners[1], 0, 1), "the deletion in the new file is followed")


def write_raw(rig: NodeRig, values: dict[str, bytes]) -> None:
    """Bytes as they are, past every check, the way the store lays them out, so that watches see them."""
    with contextlib.closing(sqlite3.connect(rig.database)) as database, database:
        database.execute("BEGIN IMMEDIATE")
        for path, raw in values.items():
            added = database.execute(
                "INSERT INTO versions(path, value, previous, at)"
                " VALUES (?, ?, (SELECT revision FROM current WHERE path = ?), ?)",
                (path, raw, path, int(time.time())),
            )
            database.execute("INSERT OR REPLACE INTO current VALUES (?, ?)", (path, added.lastrowid))
