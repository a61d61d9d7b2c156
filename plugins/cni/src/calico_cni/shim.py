#!/usr/bin/python3 -IS
"""What the container runtime executes: hands one CNI request to the node agent and prints its answer.

Standard library only, and hardly that: every import costs each pod a millisecond or more, so this uses the C modules
beneath ``os``, ``socket`` and ``json``. Frame: see calico_kernel.agent.local_socket. The namespace is opened here and
its descriptor sent along, since the agent may live in another mount namespace.
"""

import sys
from _json import encode_basestring_ascii as quoted
from _json import make_scanner
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket
from posix import O_CLOEXEC, O_RDONLY, _exit, environ, read, write
from posix import open as os_open

AGENT_SOCKET = "/var/run/calico/agent.sock"
VERSIONS = '["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]'
MOST_BYTES = 1 << 20
TIMEOUT_S = 120.0  # longer than the agent takes for any verb
TRY_AGAIN, INTERNAL = 11, 999


class Context:
    """What the C scanner of ``json`` asks for."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def parse(text: str) -> object:
    """A JSON document, or None."""
    try:
        return make_scanner(Context)(text, 0)[0]  # type: ignore[arg-type]  # anything with these attributes will do
    except (
        StopIteration,
        ValueError,
        RecursionError,
        SystemError,
    ):  # the last: it misses ``json`` to say what is wrong
        return None


def finish(status: int, text: str) -> None:
    """Print and end; without the interpreter's own clearing up, which takes a millisecond."""
    data = text.encode()
    while data:
        data = data[write(1, data) :]
    _exit(status)


def refuse(code: int, message: str, details: str = "") -> None:
    said = f'"code":{code},"msg":{quoted(message)},"details":{quoted(details)}'
    finish(1, '{"cniVersion":"1.1.0",' + said + "}\n")


def everything(descriptor: int) -> bytes:
    data = b""
    while part := read(descriptor, 65536):
        data += part
        if len(data) > MOST_BYTES:
            refuse(7, f"the network configuration is larger than {MOST_BYTES} bytes")
    return data


def exactly(connection: socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(min(count - len(data), 65536))
        if not part:
            raise OSError("the agent closed the connection")
        data += part
    return data


def ask(path: str, frame: bytes, descriptor: int | None) -> bytes:
    connection = socket(AF_UNIX, SOCK_STREAM)
    connection.settimeout(TIMEOUT_S)
    connection.connect(path)
    message = len(frame).to_bytes(4, "big") + frame
    along = [(SOL_SOCKET, SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))] if descriptor is not None else []
    sent = connection.sendmsg([message], along)
    if sent < len(message):  # even an empty send fails when the agent has answered and gone
        connection.sendall(message[sent:])
    return exactly(connection, int.from_bytes(exactly(connection, 4), "big"))


def main() -> None:
    variables = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in environ.items()}
    command = variables.get("CNI_COMMAND", "")
    if not command:
        if "-v" in sys.argv[1:]:
            finish(0, f"calico: CNI specification {VERSIONS}\n")
        refuse(4, "CNI_COMMAND is not set", "this program is run by a container runtime, see the CNI specification")
    if command == "VERSION":
        finish(0, '{"cniVersion":"1.1.0","supportedVersions":' + VERSIONS + "}\n")
    config = everything(0).decode(errors="replace")
    path = AGENT_SOCKET
    if '"agent_socket"' in config:
        conf = parse(config)
        if isinstance(conf, dict) and isinstance(conf.get("agent_socket"), str):
            path = conf["agent_socket"]
    descriptor = None
    try:
        if variables.get("CNI_NETNS"):
            descriptor = os_open(variables["CNI_NETNS"], O_RDONLY | O_CLOEXEC)
    except (OSError, ValueError):
        descriptor = None  # gone: fine for DEL, and the agent refuses the rest
    passed = ",".join(quoted(key) + ":" + quoted(value) for key, value in variables.items() if key.startswith("CNI_"))
    program = sys.argv[0].rpartition("/")[2]  # installed as calico, and as calico-ipam
    request = f'"program":{quoted(program)},"env":{{{passed}}},"config":{quoted(config)}'
    frame = '{"service":"cni","request":{' + request + "}}"
    answer = None
    try:
        answer = parse(ask(path, frame.encode(), descriptor).decode())
    except OSError as exc:
        refuse(TRY_AGAIN, f"try again later: the node agent does not answer on {path}", str(exc))
    result = answer.get("result") if isinstance(answer, dict) else None
    if isinstance(result, dict):
        finish(result.get("status", 1), result.get("stdout", ""))
    error = (answer.get("error") if isinstance(answer, dict) else None) or {}
    refuse(error.get("code", TRY_AGAIN), error.get("msg", "the node agent gave no answer"), error.get("details", ""))


if __name__ == "__main__":
    try:
        main()
    except Exception as exc:  # noqa: BLE001 -- a runtime understands an error document, not a traceback
        refuse(INTERNAL, f"the CNI executable broke: {type(exc).__name__}: {exc}")
