"""The process that keeps a lab and answers for it: first in the bubble after its init.

In:    a listening address bound by calico_kernel.lab.client (an abstract unix socket, so no file stays behind), and a
       Topology on standard input.
Out:   one JSON object a line: a request {"do": OPERATION, ...}, then any number of {"say": TEXT}, then {"result": ...}
       or {"error": {"what", "kept", "todo"}}. Only the user that started the lab is answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from calico_kernel.errors import CalicoError
from calico_kernel.lab import hosts
from calico_kernel.lab.engine import Lab, tail
from calico_kernel.lab.prober import Probe
from calico_kernel.lab.topology import Workload, decode

_REQUEST_MOST = 8 << 20


class Resident:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._said: list[str] = []
        self._changed = threading.Condition()
        self._outcome: Mapping[str, Any] | None = None
        self._lab: Lab | None = None

    def run(self, lab: Lab, *, agents: bool) -> None:
        """Build, telling who waits how far it is, then answer until the end."""
        self._lab = lab
        self._listener.listen(64)
        outcome: Mapping[str, Any] = {"result": {}}
        try:
            lab.prepare()  # forks, and what it forks goes with this thread: first, and here
            threading.Thread(target=self._accept, daemon=True).start()
            if agents:
                lab.populate()
        except Exception as exc:  # noqa: BLE001 -- whatever it is, the client is waiting to hear it
            outcome = {"error": _error(exc)}
            threading.Thread(target=self._accept, daemon=True).start()
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()
        threading.Event().wait()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def say(self, text: str) -> None:
        with self._changed:
            self._said.append(text)
            self._changed.notify_all()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError):
            # Inside the bubble its maker is user 0; everybody else has no user here at all.
            _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.getuid():
                return
            with connection.makefile("rwb") as stream:
                for line in iter(lambda: stream.readline(_REQUEST_MOST), b""):
                    self._answer(json.loads(line), lambda item: _write(stream, item))

    def _answer(self, request: Mapping[str, Any], send: Callable[[Mapping[str, Any]], None]) -> None:
        try:
            if request["do"] == "wait":
                send(self._wait(send))
                return
            operation = getattr(self, f"_do_{request['do']}", None)
            if operation is None:
                raise CalicoError(
                    what=f"a lab does not know {request['do']!r}", todo="use the same version on both ends"
                )
            send({"result": operation(request)})
        except Exception as exc:  # noqa: BLE001 -- one bad request must not end the lab
            send({"error": _error(exc)})

    def _wait(self, send: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        told = 0
        while True:
            with self._changed:
                while told == len(self._said) and self._outcome is None:
                    self._changed.wait()
                new, told, outcome = self._said[told:], len(self._said), self._outcome
            for text in new:
                send({"say": text})
            if outcome is not None:
                return outcome

    @property
    def lab(self) -> Lab:
        assert self._lab is not None
        return self._lab

    # ── operations ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _do_state(self, _request: Mapping[str, Any]) -> Any:
        return {**self.lab.state(), "pid": os.getpid()}

    def _do_command(self, request: Mapping[str, Any]) -> Any:
        line = self.lab.command_in(request["place"], request["argv"])
        return {"argv": line, "environment": hosts.host_environment(self.lab.topology)}

    def _do_exec(self, request: Mapping[str, Any]) -> Any:
        done = self.lab.run_on(request["place"], request["argv"], text=request.get("text", ""))
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr}

    def _do_calicoctl(self, request: Mapping[str, Any]) -> Any:
        return self.lab.calicoctl(request["arguments"], request.get("text", ""))

    def _do_apply(self, request: Mapping[str, Any]) -> Any:
        return self.lab.apply(request["text"])

    def _do_delete(self, request: Mapping[str, Any]) -> Any:
        return self.lab.delete(request["text"])

    def _do_unsuited(self, request: Mapping[str, Any]) -> Any:
        return self.lab.unsuited(request["text"])

    def _do_probe(self, request: Mapping[str, Any]) -> Any:
        return self.lab.probe(
            [Probe(*each) for each in request["probes"]],
            expected=request.get("expected"),
            timeout_s=request.get("timeout_s", 0.4),
            patience_s=request.get("patience_s", 0.0),
        )

    def _do_follow(self, request: Mapping[str, Any]) -> Any:
        return self.lab.change_and_follow(
            [(verb, text) for verb, text in request["steps"]],
            [Probe(*each) for each in request["probes"]],
            request["expected"],
            request["deadline_s"],
        )

    def _do_stream(self, request: Mapping[str, Any]) -> Any:
        prober = self.lab.prober
        assert prober is not None
        seen = prober.stream(
            [Probe(*each) for each in request["probes"]], request["expected"], seconds=request["seconds"]
        )
        return {"sent": seen.sent, "lost": seen.lost, "leaked": seen.leaked}

    def _do_expect(self, request: Mapping[str, Any]) -> Any:
        verdicts = self.lab.expect([Probe(*each) for each in request["probes"]], manifest=request.get("apply", ""))
        return {
            "allowed": [each is not None and each.allowed for each in verdicts],
            "reasons": [each.reason if each is not None else "an end has no such address" for each in verdicts],
        }

    def _do_explain(self, request: Mapping[str, Any]) -> Any:
        return self.lab.explain(Probe(*request["probe"]))

    def _do_agent(self, request: Mapping[str, Any]) -> Any:
        name, what = request["node"], request["what"]
        self.lab.host(name)
        if what == "start":
            self.lab.start_agent(name)
        elif what == "stop":
            self.lab.stop_agent(name)
        elif what == "kill":
            self.lab.kill_agent(name)
        elif what == "crash":
            self.lab.stop_agent(name, signal_number=signal.SIGKILL)
        elif what == "wait":
            self.lab.wait_ready(name)
        elif what == "readiness":
            status, text = self.lab.readiness(name)
            return {"status": status, "text": text}
        return self.lab.agent(name)

    def _do_add_workload(self, request: Mapping[str, Any]) -> Any:
        import msgspec

        return dict(self.lab.add_workload(msgspec.convert(request["workload"], Workload)).addresses)

    def _do_remove_workload(self, request: Mapping[str, Any]) -> Any:
        self.lab.remove_workload(request["workload"])
        return {}

    def _do_cni(self, request: Mapping[str, Any]) -> Any:
        import msgspec

        return self.lab.request(request["command"], msgspec.convert(request["workload"], Workload))

    def _do_logs(self, request: Mapping[str, Any]) -> Any:
        name = request["node"]
        path = f"{hosts.LAB}/logs/lab.log" if name == "lab" else self.lab.host(name).log
        return tail(path, request.get("lines", 100))


def _write(stream: Any, item: Mapping[str, Any]) -> None:
    stream.write(json.dumps(item).encode() + b"\n")
    stream.flush()


def _error(exc: Exception) -> dict[str, str]:
    if isinstance(exc, CalicoError):
        return {"what": exc.what, "kept": exc.kept, "todo": exc.todo}
    import traceback

    traceback.print_exception(exc)
    return {
        "what": f"{type(exc).__name__}: {exc}",
        "kept": "the lab",
        "todo": "this is a defect of the lab: report it with the output of `calico lab logs lab`",
    }


def main() -> int:
    descriptor, agents = int(sys.argv[1]), sys.argv[2] == "agents"
    topology = decode(sys.stdin.buffer.read())
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    os.makedirs(f"{hosts.LAB}/logs", exist_ok=True)
    log = os.open(f"{hosts.LAB}/logs/lab.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.setswitchinterval(0.0005)  # the watcher that stamps writes must not wait for the thread that sends probes
    resident = Resident(listener)
    resident.run(Lab(topology, say=resident.say), agents=agents)
    return 0


if __name__ == "__main__":
    sys.exit(main())
