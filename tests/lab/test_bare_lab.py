"""The lab without agents: wires, places, and that nothing is left of it however it ends."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calico_kernel.errors import CalicoError
from calico_kernel.host import bubble
from calico_kernel.lab import client, network, topology
from calico_kernel.lab.client import LabClient

pytestmark = pytest.mark.node

_numbers = itertools.count()


def fresh_name() -> str:
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(scope="module")
def bare() -> Iterator[LabClient]:
    with client.start(topology.demo(), name=fresh_name(), tied=True, agents=False) as lab:
        yield lab


def hosts() -> list[str]:
    demo = topology.demo()
    return [host.name for host in (*demo.nodes, *demo.outside)]


def test_every_host_reaches_every_other_by_each_protocol_and_family(bare: LabClient) -> None:
    probes = [
        (source, target, protocol, port, version)
        for source, target in itertools.permutations(hosts(), 2)
        for protocol, port in (("tcp", 80), ("udp", 53), ("sctp", 7), ("icmp", 0))
        for version in (4, 6)
    ]
    answers = bare.ask("probe", probes=probes, expected=[True] * len(probes), patience_s=5)
    assert [probe for probe, arrived in zip(probes, answers, strict=True) if not arrived] == []


def test_dropped_packet_is_measured_as_not_arrived_and_others_as_arrived(bare: LabClient) -> None:
    rule = ["INPUT", "-p", "udp", "-s", "172.30.1.12", "--dport", "53", "-j", "DROP"]
    assert bare.ask("exec", place="node1", argv=["iptables", "-A", *rule])["code"] == 0
    try:
        probes = [("node2", "node1", "udp", 53, 4), ("node2", "node1", "tcp", 80, 4), ("node3", "node1", "udp", 53, 4)]
        assert bare.ask("probe", probes=probes) == [False, True, True]
    finally:
        bare.ask("exec", place="node1", argv=["iptables", "-D", *rule])


def test_each_node_has_its_own_name_run_directory_and_network(bare: LabClient) -> None:
    script = "hostname; echo $$ > /run/mine; ls -A /run/mine; ip -4 -o addr show dev eth0"
    for host in topology.demo().nodes:
        if host.name != "node1":
            assert bare.ask("exec", place=host.name, argv=["test", "-e", "/run/mine"])["code"] == 1
        done = bare.ask("exec", place=host.name, argv=["sh", "-c", script])
        assert done["code"] == 0
        assert done["out"].startswith(f"{host.name}\n")
        assert f" {host.ipv4}/24 " in done["out"]


@pytest.mark.parametrize("place", ["outside", "core", "router-rack2"])
def test_command_runs_in_a_place_that_is_no_node(bare: LabClient, place: str) -> None:
    line, environment = bare.exec_line(place, ["ip", "-br", "link"])
    done = subprocess.run(line, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("eth0" if place == "outside" else "br0") in done.stdout


def test_unknown_place_is_refused_with_the_known_ones(bare: LabClient) -> None:
    with pytest.raises(CalicoError, match=r"the lab has no node9.*node1, node2"):
        bare.exec_line("node9", ["true"])


def test_second_lab_of_one_name_is_refused_and_the_first_lives_on(bare: LabClient) -> None:
    with pytest.raises(CalicoError, match="runs already"):
        client.start(topology.demo(), name=bare.name, tied=True, agents=False)
    assert bare.state()["hosts"]


def test_two_labs_at_once_do_not_meet(bare: LabClient) -> None:
    with client.start(topology.generated(1, 1), name=fresh_name(), tied=True, agents=False) as other:
        assert {bare.name, other.name} <= set(client.names())
        assert set(other.state()["hosts"]) == {"node1"}
        other.ask("exec", place="node1", argv=["ip", "link", "add", "only-here", "type", "dummy"])
        assert bare.ask("exec", place="node1", argv=["ip", "link", "show", "only-here"])["code"] != 0
    assert bare.state()["hosts"]


def machine() -> tuple[str, list[str], list[str], list[str]]:
    """What a lab could leave behind. Other tests make namespaces of other names meanwhile."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if " /run/netns/" not in line]
    namespaces = [name for name in os.listdir("/run/netns") if name.startswith(("host-", "router-", "core", "pod-"))]
    files = [name for name in (*os.listdir("/tmp"), *os.listdir("/run")) if "calico-lab" in name]
    return links, mounts, namespaces, files


def processes_of(pid: int) -> set[int]:
    """All processes whose PID namespace is that of ``pid``, seen from here."""
    wanted = os.readlink(f"/proc/{pid}/ns/pid")
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.readlink(f"/proc/{entry}/ns/pid") == wanted:
                    found.add(int(entry))
            except OSError:
                continue
    return found


def first_process(pid: int) -> int:
    """The init of the PID namespace that ``pid`` lives in."""
    return next(each for each in processes_of(pid) if _inner_pid(each) == 1)


def _inner_pid(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return 0


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.usefixtures("netns")
def test_kill_9_of_the_first_process_leaves_no_trace() -> None:
    before = machine()
    assert before[2:] == ([], [])
    name = fresh_name()
    with client.start(topology.demo(), name=name, tied=True, agents=False) as lab:
        inside = processes_of(lab.pid)
        namespaces = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in inside for kind in ("net", "mnt", "pid", "user")}
        assert len(inside) >= 5
        os.kill(first_process(lab.pid), signal.SIGKILL)
        assert wait_until(lambda: name not in client.names())
        with pytest.raises(CalicoError, match="went away"):
            lab.state()
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in inside))
    assert machine() == before
    left = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        for kind in ("net", "mnt", "pid", "user"):
            try:
                left.add(os.readlink(f"/proc/{entry}/ns/{kind}"))
            except OSError:
                continue
    assert not namespaces & left


def test_lab_that_is_tied_dies_with_a_starter_that_is_killed() -> None:
    name = fresh_name()
    script = (
        "import sys, time; from calico_kernel.lab import client, topology;"
        f"client.start(topology.generated(1, 1), name={name!r}, tied=True, agents=False);"
        "print('up', flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    assert name in client.names()
    starter.kill()
    starter.wait()
    starter.stdout.close()
    assert wait_until(lambda: name not in client.names())


def test_lab_that_is_not_tied_outlives_its_starter_until_ended() -> None:
    name = fresh_name()
    script = (
        "from calico_kernel.lab import client, topology;"
        f"client.start(topology.generated(1, 1), name={name!r}, tied=False, agents=False)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert name in client.names()
    with LabClient(name) as lab:
        assert set(lab.state()["hosts"]) == {"node1"}
        lab.end()
    assert name not in client.names()


def test_question_to_a_lab_that_does_not_run_names_those_that_do(bare: LabClient) -> None:
    with pytest.raises(CalicoError, match=f"no lab named nowhere runs.*{bare.name}"):
        LabClient("nowhere")


def test_any_port_can_be_probed(bare: LabClient) -> None:
    probes = [("node1", "node2", "tcp", 9, 4), ("node3", "outside", "udp", 60001, 6), ("outside", "node3", "tcp", 1, 6)]
    assert bare.ask("probe", probes=probes, expected=[True] * 3, patience_s=5) == [True] * 3


def test_refused_connection_is_measured_as_not_arrived(bare: LabClient) -> None:
    rule = ["INPUT", "-p", "tcp", "--dport", "81", "-j", "REJECT", "--reject-with", "tcp-reset"]
    bare.ask("exec", place="node2", argv=["iptables", "-A", *rule])
    try:
        assert bare.ask("probe", probes=[("node1", "node2", "tcp", 81, 4), ("node1", "node2", "tcp", 82, 4)]) == [
            False,
            True,
        ]
    finally:
        bare.ask("exec", place="node2", argv=["iptables", "-D", *rule])


def test_system_without_user_namespaces_is_told_which_switch_to_turn() -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" -m calico_kernel.cli.calico lab up --bare'
    done = subprocess.run(
        bubble.command(["sh", "-c", forbid, sys.executable]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "this system forbids user namespaces" in done.stderr
    assert "sudo sysctl -w user.max_user_namespaces=" in done.stderr


def test_missing_program_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        network, "which", lambda program: None if program in ("ipset", "nsenter") else f"/bin/{program}"
    )
    with pytest.raises(CalicoError, match=r"sudo apt-get install -y --no-install-recommends ipset util-linux"):
        network.check_programs("sqlite")


def test_missing_server_is_told_with_its_package_to_who_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "which", lambda program: None if program == "etcd" else f"/bin/{program}")
    network.check_programs("sqlite")
    with pytest.raises(CalicoError, match=r"sudo apt-get install -y --no-install-recommends etcd-server"):
        client.start(topology.with_datastore(topology.demo(), "etcd"), name=fresh_name(), tied=True)


def test_missing_api_server_is_told_with_what_builds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(CalicoError, match=r"kube-apiserver.*does not have it.*sh tools/kubernetes/build\.sh"):
        client.start(topology.with_datastore(topology.demo(), "kubernetes"), name=fresh_name(), tied=True)


def test_configuration_of_the_machine_does_not_reach_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_NODE", "elsewhere")
    monkeypatch.setenv("KUBECONFIG", "/elsewhere")
    monkeypatch.setenv("FELIX_LOGSEVERITYSCREEN", "Debug")
    with client.start(topology.generated(1, 1), name=fresh_name(), tied=True, agents=False) as lab:
        shown = lab.ask("exec", place="node1", argv=["env"])["out"].splitlines()
    assert not any(line.startswith(("CALICO_NODE=", "KUBECONFIG=")) for line in shown)
    assert "FELIX_LOGSEVERITYSCREEN=Debug" in shown
    assert "CALICO_CONFIG=/run/calico/calico.yaml" in shown
