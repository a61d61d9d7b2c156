"""Wire the agent of one node together, run it, take it down.

Order of start: configuration checked -> health served -> datastore opened and initialised, Node written -> drivers made
-> feed -> (in sync) -> workers apply -> local socket, controllers. Order of stop: the reverse; enforcement stays.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
import msgspec

from calico_kernel.agent import logs
from calico_kernel.agent.feed import LOCKED, Feed
from calico_kernel.agent.health import LIVENESS, READINESS, HealthServer
from calico_kernel.agent.local_socket import LocalSocket, refuse_where_served
from calico_kernel.agent.loop import CalcLoop
from calico_kernel.agent.metrics import agent_metrics
from calico_kernel.agent.mtu import MtuFile
from calico_kernel.agent.programmed import Programmed
from calico_kernel.agent.registration import Registration, register
from calico_kernel.agent.selfreport import agent_status
from calico_kernel.agent.status import StatusReporter
from calico_kernel.agent.tunnels import TunnelAddresses
from calico_kernel.agent.upkeep import Upkeep
from calico_kernel.agent.worker import DriverWorker
from calico_kernel.calc import Calculator
from calico_kernel.client.lock import is_locked
from calico_kernel.compose import Composition, compose
from calico_kernel.config import Config
from calico_kernel.errors import CalicoError, DatastoreUnavailable
from calico_kernel.hookspecs import (
    ApplyReport,
    Controller,
    Dataplane,
    Driver,
    EncapsulationDriver,
    EndpointObserver,
    Health,
    HealthCheck,
    Lack,
    LocalService,
    Metric,
    Services,
)
from calico_kernel.model.meta import Resource
from calico_kernel.model.nodestate import Delta, WorkloadEndpointId
from calico_kernel.reconcile.backoff import Backoff

log = logging.getLogger("calico.agent")

STUCK_S = 90.0
"""A thread busy with one thing for so long counts as hung (Felix: dataplane watchdog)."""
STOP_S = 10.0
LOCK_POLL_S = 1.0


class NodeAgent:
    """One node's agent. ``run`` blocks until ``stop``."""

    def __init__(self, composition: Composition, environment: Mapping[str, str]) -> None:
        self._composition = composition
        self._config = composition.config
        self._settings = composition.config.agent
        self._environment = environment
        self._stopping = threading.Event()
        self._synced = threading.Event()
        self._pokes: dict[str, Callable[[], None]] = {}
        self._phase = "starting"
        self._workers: list[DriverWorker] = []
        self._feed: Feed | None = None
        self._loop: CalcLoop | None = None
        self._upkeep: list[Upkeep] = []
        self._status: StatusReporter | None = None
        self._has_dataplane = False
        self._observers: list[EndpointObserver] = []
        self._programmed = Programmed(self._observers)
        self._plugin_checks: list[HealthCheck] = []

    def stop(self) -> None:
        self._stopping.set()

    # ── start and stop ────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Raises ConfigError, PluginError and UnsupportedError of parts that cannot be made."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._composition.close)
            self._serve_health(stack)
            if not self._open_datastore():
                return
            services = self._make_parts()
            self._start_threads(stack)
            while not self._stopping.is_set() and not self._synced.wait(0.5):
                pass
            if not self._stopping.is_set():
                self._serve_locally(services, stack)
                self._phase = "running"
                _notify("READY=1")
            self._stopping.wait()
            log.info("stopping; enforcement stays in place")
            _notify("STOPPING=1")

    def _serve_health(self, stack: contextlib.ExitStack) -> None:
        settings = self._settings
        ports = {(settings.health_host, settings.health_port), (settings.metrics_host, settings.metrics_port)}
        for host, port in sorted(ports):
            if port:
                server = HealthServer(host, port, _Checks(self._checks), self._metrics, self._lacks, self._self_report)
                server.start()
                stack.callback(server.close)

    def _open_datastore(self) -> bool:
        """Open, initialise and register, until it works and is not locked; False when told to stop meanwhile."""
        backoff = Backoff(first_s=self._settings.retry_min_s, most_s=self._settings.retry_max_s)
        while not self._stopping.is_set():
            try:
                store = self._composition.open_datastore()
                if is_locked(store):
                    if self._phase != LOCKED:
                        log.warning("%s: waiting until it is unlocked", LOCKED)
                    self._phase = LOCKED
                    self._stopping.wait(LOCK_POLL_S)
                    continue
                register(store, self._config.node, self._settings)
                if self._composition.has_ipam:
                    self._composition.open_ipam()
            except DatastoreUnavailable as exc:
                self._phase = f"waiting for the datastore: {exc.what}"
                log.warning("datastore not available yet: %s", exc.what)
                self._stopping.wait(backoff.next_s())
            else:
                self._phase = "reading the datastore"
                return True
        return False

    def _make_parts(self) -> list[LocalService]:
        composition, settings = self._composition, self._settings
        self._observers += [opened.value for opened in composition.endpoint_observers(self._lend)]
        drivers = composition.open_drivers(self._lend)
        self._has_dataplane = any(isinstance(opened.value, Dataplane) for opened in drivers)
        if not self._has_dataplane:
            log.warning("the configuration names no dataplane: no policy is enforced on this node")
        for opened in drivers:
            is_dataplane = isinstance(opened.value, Dataplane)
            worker = DriverWorker(
                opened.plugin,
                opened.value,
                self._dataplane_applied if is_dataplane else lambda _report, _stamps: None,
                self._ask_whole,
                resync_s=settings.resync_interval_s,
                retry_min_s=settings.retry_min_s,
                retry_max_s=settings.retry_max_s,
            )
            self._pokes[opened.plugin] = worker.poke
            self._workers.append(worker)
        self._plugin_checks += composition.health_checks(self._lend)
        store = composition.open_datastore()
        listeners: list[Callable[[Delta], None]] = [lambda _delta: self._synced.set()]
        encapsulations = [o.value for o in drivers if isinstance(o.value, EncapsulationDriver)]
        listeners.append(MtuFile(settings.state_dir, self._config.node, encapsulations).saw)
        self._upkeep.append(Registration(self._config.node, store, settings))
        if composition.has_ipam:
            self._upkeep.append(TunnelAddresses(self._config.node, store, composition.open_ipam()))
        listeners.extend(upkeep.saw for upkeep in self._upkeep)
        if store.keeps_status:
            self._status = StatusReporter(self._config.node, store, is_locked=self._datastore_is_locked)
            listeners.append(self._status.saw)
        make_calculator = partial(Calculator, self._config.node, self._felix_environment())
        self._loop = CalcLoop(make_calculator, self._config.node, self._workers, self._programmed, listeners)
        self._feed = Feed(
            store,
            self._loop.calculator.queries(),
            self._loop.sink,
            retry_min_s=settings.retry_min_s,
            retry_max_s=settings.retry_max_s,
        )
        self._loop.start_over = self._feed.restart
        return [opened.value for opened in composition.local_services(self._lend)]

    def _start_threads(self, stack: contextlib.ExitStack) -> None:
        assert self._loop is not None and self._feed is not None
        threads: list[DriverWorker | Upkeep | StatusReporter | CalcLoop | Feed] = [
            *self._workers,
            *self._upkeep,
            *([self._status] if self._status else []),
            self._loop,
            self._feed,
        ]
        for thread in threads:
            thread.start()
            stack.callback(_stop_thread, thread)

    def _serve_locally(self, services: list[LocalService], stack: contextlib.ExitStack) -> None:
        for service in services:
            service.start()
            stack.callback(service.stop)
        local = LocalSocket(self._settings.socket_path, {service.name: service for service in services})
        local.start()
        stack.callback(local.close)
        for opened in self._composition.controllers(self._lend):
            thread = threading.Thread(
                target=self._run_controller, args=(opened.value, opened.plugin), name=opened.plugin, daemon=True
            )
            thread.start()

    def _run_controller(self, controller: Controller, name: str) -> None:
        backoff = Backoff(first_s=1.0, most_s=60.0)
        while not self._stopping.is_set():
            try:
                controller.run(self._stopping.wait)
            except Exception:
                log.exception("controller %s broke; it is started again", name)
                self._stopping.wait(backoff.next_s())

    # ── what plugins are lent ─────────────────────────────────────────────────────────────────────────────────────

    def _lend(self, plugin: str) -> Services:
        return msgspec.structs.replace(
            self._composition.services(plugin),
            request_apply=partial(self._poke, plugin),
            admit_endpoint=self._admit,
            await_programmed=self._await_programmed,
        )

    def _poke(self, plugin: str) -> None:
        """Plugins get this before their worker exists; until then there is nothing to apply."""
        if (poke := self._pokes.get(plugin)) is not None:
            poke()

    def _admit(self, endpoint: Resource) -> Resource:
        for observer in self._observers:
            endpoint = observer.creating(endpoint)
        return endpoint

    def _await_programmed(self, endpoint: WorkloadEndpointId, revision: str, timeout_s: float) -> bool:
        """Without a dataplane there is nothing to wait for."""
        return not self._has_dataplane or self._programmed.wait(endpoint, revision, timeout_s)

    def _dataplane_applied(self, report: ApplyReport, stamps: Mapping[WorkloadEndpointId, str]) -> None:
        self._programmed.applied(report.programmed, stamps)
        if self._status is not None:
            self._status.applied(report)

    def _ask_whole(self) -> None:
        if self._loop is not None:
            self._loop.ask_whole()

    def _felix_environment(self) -> dict[str, str]:
        prefix = self._settings.environment_prefix.upper()
        return {key: value for key, value in self._environment.items() if key.upper().startswith(prefix)}

    # ── health and metrics ────────────────────────────────────────────────────────────────────────────────────────

    def _checks(self) -> list[HealthCheck]:
        checks = [
            HealthCheck(name="datastore", affects=READINESS, check=self._datastore_health),
            HealthCheck(name="calculation", affects=LIVENESS, check=self._loop_health),
        ]
        for worker in self._workers:
            checks.append(HealthCheck(name=worker.name, affects=READINESS, check=_converged(worker)))
            checks.append(HealthCheck(name=worker.name, affects=LIVENESS, check=_moving(worker)))
        for upkeep in self._upkeep:
            checks.append(HealthCheck(name=upkeep.name, affects=READINESS, check=upkeep.health))
        return checks + self._plugin_checks

    def _lacks(self) -> Iterator[tuple[str, Lack]]:
        for worker in self._workers:
            for lack in worker.state.lacks:
                yield worker.name, lack

    def _datastore_health(self) -> Health:
        feed = self._feed
        if feed is None:
            return Health(ok=False, reason=self._phase)
        if feed.state.in_sync and not feed.state.connected:
            return Health(ok=False, reason=f"away: {feed.state.trouble}; the node keeps enforcing what it knows")
        return Health(ok=feed.state.in_sync, reason=feed.state.trouble)

    def _datastore_is_locked(self) -> bool:
        return self._feed is not None and self._feed.state.locked

    def _loop_health(self) -> Health:
        loop = self._loop
        if loop is None or loop.ident is None:
            return Health(ok=True)
        if not loop.is_alive():
            return Health(ok=False, reason="the calculation's thread ended")
        return _not_stuck(loop.state.busy_since, "calculating")

    def _self_report(self) -> Mapping[str, Any]:
        return agent_status(
            self._config.node,
            self._phase,
            [choice.name for choice in self._config.plugins],
            self._feed.state if self._feed is not None else None,
            len(self._loop.calculator.problems) if self._loop is not None else 0,
            self._workers,
        )

    def _metrics(self) -> Iterable[Metric]:
        if self._loop is not None and self._feed is not None:
            calculator = self._loop.calculator
            yield from agent_metrics(
                self._config.node,
                self._feed.state,
                self._loop.state,
                calculator.stats,
                len(calculator.problems),
                self._workers,
            )
        yield from self._composition.metrics(self._lend)


@attrs.frozen
class _Checks:
    """The checks of this moment: drivers join after the server has started."""

    now: Callable[[], list[HealthCheck]]

    def __iter__(self) -> Iterator[HealthCheck]:
        return iter(self.now())


def _converged(worker: DriverWorker) -> Callable[[], Health]:
    def check() -> Health:
        state = worker.state
        if not state.applies:
            return Health(ok=False, reason="nothing was applied yet")
        if state.converged:
            return Health(ok=True)
        said = "; ".join(f"{failure.subject}: {failure.reason}" for failure in list(state.failures)[:3])
        return Health(ok=False, reason=f"{len(state.failures)} thing(s) could not be applied, retrying: {said}")

    return check


def _moving(worker: DriverWorker) -> Callable[[], Health]:
    def check() -> Health:
        if worker.ident is not None and not worker.is_alive():
            return Health(ok=False, reason="its thread ended")
        return _not_stuck(worker.state.busy_since, "applying")

    return check


def _not_stuck(busy_since: float | None, doing: str) -> Health:
    seconds = 0.0 if busy_since is None else time.monotonic() - busy_since
    return Health(ok=seconds < STUCK_S, reason=f"{doing} for {seconds:.0f} s already")


def _stop_thread(thread: DriverWorker | Upkeep | StatusReporter | CalcLoop | Feed) -> None:
    thread.stop()
    thread.join(STOP_S)
    if thread.is_alive():
        log.warning("%s did not stop within %.0f s", thread.name, STOP_S)


def _notify(state: str) -> None:
    """Tell systemd (``sd_notify``), when it asked to be told."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


def run(config: Config) -> int:
    """Exit status: 0 after SIGTERM or SIGINT, 1 when a part cannot be made."""
    logs.set_up(config.agent.log_level, config.agent.log_format)
    try:
        refuse_where_served(config.agent.socket_path)
        agent = NodeAgent(compose(config), os.environ)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: agent.stop())
        agent.run()
    except CalicoError as exc:
        log.error("%s", exc)
        return 1
    return 0


def uninstall(config: Config) -> int:
    """Exit status 0 when nothing of ours is left. Raises ConfigError while the agent runs: it would program everything
    again."""
    logs.set_up(config.agent.log_level, "text")
    refuse_where_served(config.agent.socket_path)
    composition = compose(config)
    status = 0
    drivers: list[tuple[str, Driver]] = [(o.plugin, o.value) for o in composition.open_drivers(composition.services)]
    for name, driver in reversed(drivers):
        try:
            driver.uninstall()
            log.info("%s: removed from this host", name)
        except CalicoError as exc:
            log.error("%s: %s", name, exc)
            status = 1
        finally:
            driver.close()
    return status
