"""One node of the test cluster: network, mount and UTS namespaces of its own, in which containerd, kubelet and our
agent run as they do on a machine, at the paths that they have there.

What a node writes lies in tmpfs over (or overlays on) the machine's directories, seen by its processes alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from calico_datastore_kdd.testing import program
from calico_kernel.host import netns
from tests.e2e import image

SYSCTLS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
"""What a kubelet sets for the whole machine. It gets files to write instead."""

SETUP = """
set -e
hostname {name}
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/node /run/cgroup /run/sysctl
mount --move /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --move /run/cgroup /sys/fs/cgroup
for directory in etc opt var/lib var/log; do
    upper=/run/node/$directory work=/run/node/work/$directory
    mkdir -p $upper $work
    mount -t overlay -o lowerdir=/$directory,upperdir=$upper,workdir=$work overlay /$directory
done
for directory in containerd kubelet; do
    mkdir -p /var/lib/$directory
    mount -t tmpfs -o mode=755 tmpfs /var/lib/$directory
done
rm -rf /etc/cni /opt/cni /var/lib/calico /etc/calico
mkdir -p /etc/cni/net.d /opt/cni/bin /etc/calico /etc/kubernetes /var/lib/calico /var/run/calico
for plugin in /usr/lib/cni/*; do ln -s $plugin /opt/cni/bin/; done
for setting in {sysctls}; do
    kept=/run/sysctl/$(basename $setting)
    cat /proc/sys/$setting > $kept
    mount --bind $kept /proc/sys/$setting
done
mount --make-rshared /
ip link set lo up
ip link set {name} name eth0
ip address add {address}/24 dev eth0
ip link set eth0 up
ip route add default via {gateway}
sysctl -qw net.ipv4.ip_forward=1
exec sleep infinity
"""

CONTAINERD = """
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{image}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "crun"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
        BinaryName = "{crun}"
"""

KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "failCgroupV1": False,
    "makeIPTablesUtilChains": False,
    "localStorageCapacityIsolation": False,
    "oomScoreAdj": 0,
    "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
    "imageGCHighThresholdPercent": 100,
    "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    "resolvConf": "",
    "registerNode": True,
    "nodeStatusUpdateFrequency": "5s",
    "maxPods": 110,
    "logging": {"verbosity": 0},
}


@attrs.define
class ClusterNode:
    """``uplink``: the machine's end of its cable, a port of the cluster's bridge."""

    name: str
    address: str
    gateway: str
    directory: Path
    processes: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict)
    holder: subprocess.Popen[bytes] | None = None

    def start(self, archive: Path, bridge: str) -> None:
        """Namespaces, containerd with the image in it; no kubelet yet."""
        self.directory.mkdir(parents=True)
        uplink = f"up-{self.name}"
        script = SETUP.format(name=self.name, address=self.address, gateway=self.gateway, sysctls=" ".join(SYSCTLS))
        netns.create(self.name)
        _run("ip", "link", "add", uplink, "type", "veth", "peer", "name", self.name, "netns", self.name)
        _run("ip", "link", "set", uplink, "master", bridge, "up")
        inside = ["nsenter", f"--net={netns.path_of(self.name)}", "unshare", "--mount", "--uts"]
        with open(self.directory / "setup.log", "wb") as log:
            self.holder = subprocess.Popen([*inside, "sh", "-c", script], stdout=log, stderr=log)
        self._wait(self._settled, "its namespaces")
        self.write("/etc/containerd/config.toml", CONTAINERD.format(image=image.NAME, crun=shutil.which("crun")))
        self.start_containerd()
        shutil.copy(archive, self.path("/run/image.tar"))
        self.run("ctr", "-n", "k8s.io", "images", "import", "--snapshotter", "native", "/run/image.tar")

    def _settled(self) -> bool:
        assert self.holder is not None
        if self.holder.poll() is not None:
            raise AssertionError(f"node {self.name}: {(self.directory / 'setup.log').read_text()}")
        return Path(f"/proc/{self.holder.pid}/comm").read_text() == "sleep\n"

    # ── files and programs of this node ──

    def path(self, path: str) -> Path:
        """A path of this node as this process sees it. It must lead over no absolute link (as /var/run is one)."""
        assert self.holder is not None
        return Path(f"/proc/{self.holder.pid}/root{path}")

    def write(self, path: str, text: str) -> None:
        where = self.path(path)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)

    def command(self, *argv: str) -> list[str]:
        assert self.holder is not None
        return ["nsenter", "-t", str(self.holder.pid), "-m", "-n", "-u", "--", *argv]

    def run(self, *argv: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*argv), input=stdin, capture_output=True, text=True, timeout=120, check=False
        )
        assert not check or done.returncode == 0, f"{self.name}: {argv} failed: {done.stdout}{done.stderr}"
        return done

    def spawn(self, name: str, *argv: str, **environment: str) -> None:
        """A program that stays. Its log is NAME.log in this node's directory."""
        with open(self.directory / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(*argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait()

    def log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        if self.holder is not None:
            self.holder.kill()
            self.holder.wait()

    # ── what Kubernetes brings ──

    def start_containerd(self) -> None:
        self.spawn("containerd", "containerd", "--log-level", "warn")
        self._wait(lambda: self.run("ctr", "version", check=False).returncode == 0, "containerd")

    def start_kubelet(self, kubeconfig: str) -> None:
        self.write("/etc/kubernetes/kubelet.conf", kubeconfig)
        self.write("/var/lib/kubelet/config.yaml", json.dumps(KUBELET))
        self.restart_kubelet()

    def restart_kubelet(self) -> None:
        if "kubelet" in self.processes:
            self.kill("kubelet")
        self.spawn(
            "kubelet",
            *(program("kubelet"), "--config", "/var/lib/kubelet/config.yaml"),
            *("--kubeconfig", "/etc/kubernetes/kubelet.conf"),
            *("--hostname-override", self.name, "--node-ip", self.address),
            GOMAXPROCS="2",
        )

    def pod_starts_ms(self) -> list[float]:
        """From a pod's creation (in whole seconds) to the kubelet seeing it run."""
        return [
            float(seconds) * 1000 for seconds in re.findall(r'podStartE2EDuration="([0-9.]+)s"', self.log("kubelet"))
        ]

    def _wait(self, done: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, f"node {self.name} waited {timeout_s:.0f} s for {what}"
            time.sleep(0.05)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
