"""The namespace lab for tests: whole nodes with real agents, in a world of their own.

In:    a Topology (default: that of ``calico lab run``).   Out: a ``RunningLab``.
Owns:  the lab; it ends with the ``with`` block, and with the test's process however that ends.

    with running() as lab:
        lab.apply(POLICY)
        assert lab.settles([("shop/web", "shop/db", "tcp/80", False)])
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from calico_kernel.lab import client, topology
from calico_kernel.lab.client import LabClient
from calico_kernel.lab.network import LabError
from calico_kernel.lab.prober import Probe, Protocol
from calico_kernel.lab.scenarios import parse_service
from calico_kernel.lab.topology import Topology, Workload

_numbers = itertools.count()

Expectation = tuple[str, str, str, bool]
"""Source, target, service ("tcp/80", "icmp"), and whether a new flow arrives."""


def fresh_name() -> str:
    """A lab name that no other test of this machine uses."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@contextlib.contextmanager
def running(shape: Topology | None = None, *, agents: bool = True) -> Iterator[RunningLab]:
    """Raises what ``calico_kernel.lab.client.start`` raises."""
    with client.start(shape or topology.demo(), name=fresh_name(), tied=True, agents=agents) as lab:
        yield RunningLab(lab)


class RunningLab:
    """A lab under test. ``client`` has everything that is not here."""

    def __init__(self, lab: LabClient) -> None:
        self.client = lab
        self.topology = lab.topology()

    # ── policy ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, manifest: str) -> str:
        """Raises LabError with what was said. What is a cluster's own goes to its API server, where there is one."""
        return str(self.client.ask("apply", text=manifest))

    def delete(self, manifest: str) -> str:
        return str(self.client.ask("delete", text=manifest))

    def calicoctl(self, *arguments: str, text: str = "") -> str:
        """Raises LabError with what it said."""
        return str(self.client.ask("calicoctl", arguments=list(arguments), text=text))

    # ── packets ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def arrives(self, source: str, target: str, service: str, *, version: int = 4) -> bool:
        """One new flow, now."""
        return bool(self.client.ask("probe", probes=[_probe(source, target, service, version)])[0])

    def settles(
        self, expectations: Iterable[Expectation], *, versions: Sequence[int] = (4, 6), patience_s: float = 10.0
    ) -> list[str]:
        """Try until every new flow gets its expected verdict; returns those that did not, in words: [] is success."""
        wanted = [
            (_probe(source, target, service, version), arrives)
            for source, target, service, arrives in expectations
            for version in versions
        ]
        expected = [arrives for _, arrives in wanted]
        answers = self.client.ask(
            "probe", probes=[probe for probe, _ in wanted], expected=expected, patience_s=patience_s
        )
        return [
            f"{probe} {'lost' if arrives else 'arrived'}"
            for (probe, arrives), answer in zip(wanted, answers, strict=True)
            if answer != arrives
        ]

    @contextlib.contextmanager
    def streaming(
        self, expectations: Sequence[Expectation], *, seconds: float, versions: Sequence[int] = (4, 6)
    ) -> Iterator[dict[str, Any]]:
        """Begin new flows all the time, beside the body of ``with``; the mapping then holds ``sent``, ``lost`` and
        ``leaked``. The body may go on for longer than ``seconds``."""
        seen: dict[str, Any] = {}
        wanted = [(each, version) for each in expectations for version in versions]

        def stream() -> None:
            with contextlib.closing(LabClient(self.client.name)) as second:
                seen.update(
                    second.ask(
                        "stream",
                        probes=[_probe(*each[:3], version) for each, version in wanted],
                        expected=[each[3] for each, _ in wanted],
                        seconds=seconds,
                    )
                )

        thread = threading.Thread(target=stream)
        thread.start()
        try:
            yield seen
        finally:
            thread.join()

    # ── places ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, place: str, *argv: str, text: str = "") -> str:
        """Standard output of a command in a place. Raises LabError when it fails."""
        done = self.client.ask("exec", place=place, argv=list(argv), text=text)
        if done["code"]:
            raise LabError(
                what=f"{' '.join(argv)} in {place} failed: {done['err'] or done['out']}", todo="see its words"
            )
        return str(done["out"])

    def address(self, place: str, *, version: int = 4) -> str:
        return str(self.client.state()["addresses"][place][str(version)])

    def agent(self, node: str, what: str = "status") -> dict[str, Any]:
        """``what``: status, start, stop, kill (SIGKILL; it is started again), crash (SIGKILL; it stays away), wait
        (until ready), readiness ({"status": of HTTP, 0 without an answer, "text": its reasons}). ``node``: also the
        datastore's server, by its name."""
        return dict(self.client.ask("agent", node=node, what=what))

    def cni(self, command: str, workload: Workload) -> tuple[int, dict[str, Any]]:
        """One CNI request, as the runtime makes it and not repeated: (exit status, what was answered)."""
        described = json.loads(msgspec.json.encode(workload))
        status, said = self.client.ask("cni", command=command, workload=described)
        return int(status), json.loads(said or "{}")

    def logs(self, node: str) -> str:
        return str(self.client.ask("logs", node=node))


def _probe(source: str, target: str, service: str, version: int) -> Probe:
    protocol: Protocol
    protocol, port = parse_service(service)
    return Probe(source, target, protocol, port, version)
