"""Liveness and readiness with reasons in words, and Prometheus metrics, over HTTP.

GET /liveness   200 while every thread makes progress        GET /metrics   Prometheus text format
GET /readiness  200 once the node enforces what it should    GET /health    both, as JSON, with every reason, and what
                                                                            the host lacks, and how the agent does
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from calico_kernel.errors import ConfigError
from calico_kernel.hookspecs import Health, HealthCheck, Lack, Metric

log = logging.getLogger(__name__)

READINESS, LIVENESS = "readiness", "liveness"


def failing(checks: Iterable[HealthCheck], affects: str) -> list[tuple[str, str]]:
    """(check, reason) for each failing check of one kind. A check that breaks is a failing one."""
    bad: list[tuple[str, str]] = []
    for check in checks:
        if check.affects != affects:
            continue
        try:
            health = check.check()
        except Exception as exc:  # noqa: BLE001 -- reported as the check's own failure
            health = Health(ok=False, reason=f"the check itself failed: {type(exc).__name__}: {exc}")
        if not health.ok:
            bad.append((check.name, health.reason))
    return bad


def exposition(metrics: Iterable[Metric]) -> str:
    """Prometheus text format 0.0.4: one HELP and TYPE for each name, samples below it."""
    families: dict[str, list[Metric]] = {}
    for metric in metrics:
        families.setdefault(metric.name, []).append(metric)
    lines: list[str] = []
    for name, samples in sorted(families.items()):
        lines.append(f"# HELP {name} {_escape(samples[0].help)}")
        lines.append(f"# TYPE {name} {samples[0].kind}")
        for sample in samples:
            labels = ",".join(f'{key}="{_escape(value, quote=True)}"' for key, value in sorted(sample.labels.items()))
            lines.append(f"{name}{{{labels}}} {sample.value:g}" if labels else f"{name} {sample.value:g}")
    return "\n".join(lines) + "\n"


def _escape(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text


class HealthServer:
    """Serves in threads of its own. Raises ConfigError when the address cannot be bound."""

    def __init__(
        self,
        host: str,
        port: int,
        checks: Iterable[HealthCheck],
        metrics: Callable[[], Iterable[Metric]],
        lacks: Callable[[], Iterable[tuple[str, Lack]]] = tuple,
        status: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """``lacks``: what the host cannot do, each with the name of the driver that says so. ``status``: what the agent
        says of itself (``calico_kernel.agent.selfreport``)."""
        content = {
            "checks": checks,
            "metrics": staticmethod(metrics),
            "lacks": staticmethod(lacks),
            "status": staticmethod(status),
        }
        handler = type("Handler", (_Handler,), content)
        try:
            self._server = _Server((host, port), handler)
        except OSError as exc:
            raise ConfigError(
                what=f"cannot serve health and metrics on {host}:{port}: {exc.strerror or exc}",
                todo="stop the other agent, if it is one; else set agent.health_port or agent.metrics_port",
            ) from exc
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Handler(BaseHTTPRequestHandler):
    checks: Iterable[HealthCheck] = ()
    metrics: Callable[[], Iterable[Metric]]
    lacks: Callable[[], Iterable[tuple[str, Lack]]]
    status: Callable[[], Mapping[str, Any]]
    timeout = 5

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            self._say(HTTPStatus.OK, exposition(type(self).metrics()), "text/plain; version=0.0.4; charset=utf-8")
        elif path in ("/liveness", "/readiness"):
            bad = failing(self.checks, path[1:])
            text = "".join(f"{name}: {reason}\n" for name, reason in bad) or "ok\n"
            self._say(HTTPStatus.SERVICE_UNAVAILABLE if bad else HTTPStatus.OK, text, "text/plain; charset=utf-8")
        elif path == "/health":
            report: dict[str, Any] = {}
            for affects in (LIVENESS, READINESS):
                bad = failing(self.checks, affects)
                report[affects] = {"ok": not bad, "reasons": [{"check": name, "reason": why} for name, why in bad]}
            report["lacks"] = [
                {"driver": name, "capability": lack.capability, "effect": lack.effect}
                for name, lack in type(self).lacks()
            ]
            report["agent"] = type(self).status()
            self._say(HTTPStatus.OK, json.dumps(report, indent=2) + "\n", "application/json")
        else:
            self._say(HTTPStatus.NOT_FOUND, "try /liveness, /readiness, /health or /metrics\n", "text/plain")

    def _say(self, status: HTTPStatus, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the signature of http.server
        log.debug(format, *args)
