"""Read what the runtime sent: environment and network configuration, into typed values. Refuses what is not sound.

In:    the request of the executable: CNI_* variables and the bytes of its standard input.
Out:   ``Invocation``. Pure. Raises CniError with the specification's numbers.
Source: CNI specification 1.1, sections 2 and 4; Calico's keys as of cni-plugin/pkg/types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal, get_args

import attrs

from calico_cni import errors
from calico_cni.errors import CniError

Address = IPv4Address | IPv6Address
Command = Literal["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
COMMANDS: Mapping[str, Command] = {name: name for name in get_args(Command)}
_SINCE: Mapping[str, str] = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
ANNOTATION = "cni.projectcalico.org/"


@attrs.frozen(kw_only=True)
class WorkloadPort:
    name: str
    protocol: str
    port: int
    host_port: int = 0
    host_ip: str = ""


@attrs.frozen(kw_only=True)
class IpamConf:
    """``families``: the IP versions to assign. ``routes``: destinations given in the configuration."""

    type: str
    families: tuple[int, ...] = (4,)
    pools_ipv4: tuple[str, ...] = ()
    pools_ipv6: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class NetConf:
    """One network configuration. ``raw`` is the document as it came, for IPAM programs.

    policy_wait_s:  None: the settings decide.
    addresses:      asked for by runtime configuration or arguments.
    """

    version: str
    name: str
    raw: Mapping[str, Any]
    ipam: IpamConf
    policy_type: str = ""
    mtu: int = 0
    require_mtu_file: bool = False
    queues: int = 1
    node: str = ""
    ip_forwarding: bool = False
    include_default_routes: bool = False
    addresses_without_ipam: bool = False
    floating_addresses: bool = False
    policy_wait_s: float | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict)
    annotations: Mapping[str, str] = attrs.field(factory=dict)
    service_account: str = ""
    ports: tuple[WorkloadPort, ...] = ()
    addresses: tuple[Address, ...] = ()
    mac: str = ""
    previous: Mapping[str, Any] | None = None
    valid_attachments: frozenset[tuple[str, str]] | None = None


@attrs.frozen(kw_only=True)
class Invocation:
    """One call of the executable. ``args``: CNI_ARGS. Fields that a command does not need are ""."""

    command: Command
    container: str
    netns: str
    interface: str
    args: Mapping[str, str]
    path: tuple[str, ...]
    conf: NetConf
    environment: Mapping[str, str]


def invocation(environment: Mapping[str, str], document: str) -> Invocation:
    """Raises CniError: 1 version, 4 environment, 6 not JSON, 7 configuration."""
    conf = _document(document)
    version = _version(conf)
    command = COMMANDS.get(environment.get("CNI_COMMAND", ""))
    if command is None:
        said = f"CNI_COMMAND is {environment.get('CNI_COMMAND')!r}"
        raise CniError(errors.INVALID_ENVIRONMENT, said, f"known: {', '.join(COMMANDS)}")
    since = _SINCE.get(command)
    if since is not None and VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(
            errors.INCOMPATIBLE_VERSION, f"cniVersion {version} has no {command}", f"it exists since {since}"
        )
    container, interface = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    netns = environment.get("CNI_NETNS", "")
    if command in ("ADD", "DEL", "CHECK"):
        _required(environment, "CNI_CONTAINERID", "CNI_IFNAME", *(() if command == "DEL" else ("CNI_NETNS",)))
        if not _NAME.match(container):
            raise CniError(errors.INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container!r} is not a container ID")
        _interface_name(interface)
    return Invocation(
        command=command,
        container=container,
        netns=netns,
        interface=interface,
        args=_arguments(environment.get("CNI_ARGS", "")),
        path=tuple(part for part in environment.get("CNI_PATH", "").split(":") if part.startswith("/")),
        conf=_netconf(conf, version, command, _arguments(environment.get("CNI_ARGS", ""))),
        environment=environment,
    )


def _document(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair decodes; nothing can hold it
    except (ValueError, RecursionError) as exc:
        raise CniError(errors.UNDECODABLE, "the network configuration is not JSON", str(exc)[:200]) from None
    if not isinstance(found, dict):
        raise CniError(errors.UNDECODABLE, "the network configuration is not a JSON object")
    return found


def _version(conf: Mapping[str, Any]) -> str:
    version = conf.get("cniVersion") or "0.2.0"  # as the specification's first releases: no version means 0.2.0
    if not isinstance(version, str) or version not in VERSIONS:
        raise CniError(
            errors.INCOMPATIBLE_VERSION, f"cniVersion {version!r} is not supported", f"supported: {', '.join(VERSIONS)}"
        )
    return version


def version_of(document: str) -> str:
    """The version to answer in, whatever else is wrong with the document."""
    try:
        found = json.loads(document)
        version = found.get("cniVersion") if isinstance(found, dict) else None
    except (ValueError, RecursionError):
        return NEWEST
    return version if version in VERSIONS else NEWEST


def _required(environment: Mapping[str, str], *names: str) -> None:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise CniError(errors.INVALID_ENVIRONMENT, f"required variables are missing: {', '.join(missing)}")


def _interface_name(name: str) -> None:
    bad = len(name.encode()) > 15 or name in (".", "..") or re.search(r"[/:\s]", name) or not name.isprintable()
    if bad:
        raise CniError(errors.INVALID_ENVIRONMENT, f"CNI_IFNAME {name!r} is not an interface name")


def _arguments(text: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise CniError(errors.INVALID_ENVIRONMENT, f"CNI_ARGS has {pair!r}, which is not KEY=VALUE")
        found[key] = value
    return found


# ── the network configuration ─────────────────────────────────────────────────────────────────────────────────────────


def _bad(path: str, reason: str) -> CniError:
    return CniError(errors.INVALID_CONFIG, f"network configuration: {path}: {reason}")


def _get(conf: Mapping[str, Any], path: str, kind: type | tuple[type, ...], default: Any) -> Any:
    """The value at a dotted path; ``default`` when it or what holds it is absent or null."""
    value: Any = conf
    for index, part in enumerate(path.split(".")):
        if not isinstance(value, dict):
            raise _bad(".".join(path.split(".")[:index]), "must be an object")
        value = value.get(part)
        if value is None:
            return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = kind.__name__ if isinstance(kind, type) else " or ".join(one.__name__ for one in kind)
        raise _bad(path, f"must be {wanted}, not {type(value).__name__}")
    return value


def _texts(conf: Mapping[str, Any], path: str) -> tuple[str, ...]:
    values = _get(conf, path, list, [])
    if not all(isinstance(value, str) for value in values):
        raise _bad(path, "must be a list of strings")
    return tuple(values)


def _number(conf: Mapping[str, Any], path: str, low: int, high: int, default: int) -> int:
    value = _get(conf, path, int, default)
    if not low <= value <= high:
        raise _bad(path, f"{value} is not between {low} and {high}")
    return int(value)


def _netconf(conf: Mapping[str, Any], version: str, command: str, args: Mapping[str, str]) -> NetConf:
    name = conf.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise _bad("name", f"{name!r} is not a network name (letters, digits, '_', '.', '-')")
    wait = _get(conf, "policy_setup_timeout_seconds", (int, float), None)
    if wait is not None and wait < 0:
        raise _bad("policy_setup_timeout_seconds", "must not be negative")
    previous = _get(conf, "prevResult", dict, None)
    if command == "CHECK" and previous is None:
        raise _bad("prevResult", "CHECK needs the result of ADD")
    mac = str(_get(conf, "runtimeConfig.mac", str, "") or _get(conf, "args.cni.mac", str, "") or args.get("MAC", ""))
    node = str(_get(conf, "nodename", str, ""))
    if node and not _LABEL.match(node):
        raise _bad("nodename", f"{node!r} is not a node name")
    return NetConf(
        version=version,
        name=name,
        raw=conf,
        ipam=_ipam(conf, command),
        policy_type=str(_get(conf, "policy.type", str, "")),
        mtu=_number(conf, "mtu", 0, 65535, 0),
        require_mtu_file=bool(_get(conf, "require_mtu_file", bool, False)),
        queues=_number(conf, "num_queues", 1, 4096, 1),
        node=node,
        ip_forwarding=bool(_get(conf, "container_settings.allow_ip_forwarding", bool, False)),
        include_default_routes=bool(_get(conf, "include_default_routes", bool, False)),
        addresses_without_ipam=bool(_get(conf, "feature_control.ip_addrs_no_ipam", bool, False)),
        floating_addresses=bool(_get(conf, "feature_control.floating_ips", bool, False)),
        policy_wait_s=None if wait is None else float(wait),
        labels=_labels(conf),
        annotations=_annotations(conf),
        service_account=str(_get(conf, "args.cni.serviceAccount", str, "")),
        ports=tuple(_port(port, i) for i, port in enumerate(_get(conf, "args.cni.ports", list, []))),
        addresses=_requested(conf, args),
        mac=mac_address("mac", mac) if mac else "",
        previous=previous,
        valid_attachments=_valid_attachments(conf) if command == "GC" else None,
    )


def _ipam(conf: Mapping[str, Any], command: str) -> IpamConf:
    kind = _get(conf, "ipam.type", str, "")
    if not kind and command in ("GC", "STATUS"):
        kind = "calico-ipam"
    if not _NAME.match(kind):
        raise _bad("ipam.type", f"{kind!r} is not the name of an IPAM plugin (calico-ipam, host-local...)")
    families = [4] if _flag(conf, "ipam.assign_ipv4", True) else []
    families += [6] if _flag(conf, "ipam.assign_ipv6", False) else []
    routes = _get(conf, "ipam.routes", list, []) if kind != "calico-ipam" else []
    destinations = []
    for index, route in enumerate(routes):
        destination = route.get("dst") if isinstance(route, dict) else None
        destinations.append(prefix(f"ipam.routes[{index}].dst", destination))
    return IpamConf(
        type=kind,
        families=tuple(families),
        pools_ipv4=_pools(_texts(conf, "ipam.ipv4_pools"), 4, "ipam.ipv4_pools"),
        pools_ipv6=_pools(_texts(conf, "ipam.ipv6_pools"), 6, "ipam.ipv6_pools"),
        routes=tuple(destinations),
    )


def _flag(conf: Mapping[str, Any], path: str, default: bool) -> bool:
    """Calico's "true" and "false" in quotes; anything else is the default."""
    value = _get(conf, path, (str, bool), default)
    return {"true": True, "false": False}.get(str(value).lower(), default)


def _pools(names: Sequence[str], version: int, path: str) -> tuple[str, ...]:
    for name in names:
        try:
            family = ip_network(name, strict=False).version
        except ValueError:
            if not _LABEL.match(name):
                raise _bad(path, f"{name!r} is neither a CIDR nor the name of a pool") from None
            continue
        if family != version:
            raise _bad(path, f"{name} is not IPv{version}")
    return tuple(names)


def _labels(conf: Mapping[str, Any]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for index, label in enumerate(_get(conf, "args.cni.labels", list, [])):
        key, value = (label.get("key"), label.get("value", "")) if isinstance(label, dict) else (None, None)
        if not isinstance(key, str) or not key or not isinstance(value, str):
            raise _bad(f"args.cni.labels[{index}]", 'must be {"key": TEXT, "value": TEXT}')
        found[key] = value
    return found


def _annotations(conf: Mapping[str, Any]) -> Mapping[str, str]:
    found = _get(conf, "args.cni.annotations", dict, {})
    if not all(isinstance(value, str) for value in found.values()):
        raise _bad("args.cni.annotations", "must map text to text")
    return dict(found)


def _port(port: Any, index: int) -> WorkloadPort:
    path = f"args.cni.ports[{index}]"
    if not isinstance(port, dict):
        raise _bad(path, "must be an object")
    protocol = str(_get(port, "protocol", str, "TCP")).upper()
    if protocol not in ("TCP", "UDP", "SCTP"):
        raise _bad(f"{path}.protocol", f"{protocol!r} is not TCP, UDP or SCTP")
    return WorkloadPort(
        name=str(_get(port, "name", str, "")),
        protocol=protocol,
        port=_number(port, "port" if "port" in port else "containerPort", 1, 65535, 0),
        host_port=_number(port, "hostPort", 0, 65535, 0),
        host_ip=str(_get(port, "hostIP", str, "")),
    )


def _requested(conf: Mapping[str, Any], args: Mapping[str, str]) -> tuple[Address, ...]:
    texts = _texts(conf, "runtimeConfig.ips") or _texts(conf, "args.cni.ips")
    if not texts and args.get("IP"):
        texts = tuple(args["IP"].split(","))
    return addresses("requested addresses", texts)


def addresses(path: str, texts: Sequence[str]) -> tuple[Address, ...]:
    """At most one of each family, prefix lengths ignored. Raises CniError."""
    found = []
    for text in texts:
        try:
            found.append(ip_address(text.partition("/")[0]))
        except ValueError:
            raise _bad(path, f"{text!r} is not an IP address") from None
    for version in (4, 6):
        if sum(address.version == version for address in found) > 1:
            raise _bad(path, f"at most one IPv{version} address")
    return tuple(found)


def prefix(path: str, text: Any) -> str:
    try:
        return str(ip_network(text if isinstance(text, str) else "?", strict=False))
    except ValueError:
        raise _bad(path, f"{text!r} is not a CIDR") from None


def mac_address(path: str, text: str) -> str:
    lower = text.lower()
    if not _MAC.match(lower) or int(lower[:2], 16) & 1:
        raise _bad(path, f"{text!r} is not the MAC address of an interface")
    return lower


def _valid_attachments(conf: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    listed = conf.get("cni.dev/valid-attachments", conf.get("cni.dev/attachments"))
    if not isinstance(listed, list):
        raise _bad("cni.dev/valid-attachments", "GC needs the list of attachments that are to stay")
    found = set()
    for index, entry in enumerate(listed):
        container, interface = (entry.get("containerID"), entry.get("ifname")) if isinstance(entry, dict) else (0, 0)
        if not isinstance(container, str) or not isinstance(interface, str):
            raise _bad(f"cni.dev/valid-attachments[{index}]", 'must be {"containerID": TEXT, "ifname": TEXT}')
        found.add((container, interface))
    return frozenset(found)


def annotation_list(annotations: Mapping[str, str], name: str) -> tuple[str, ...] | None:
    """A JSON list of texts in one of Calico's annotations; None when it is not there. Raises CniError."""
    text = annotations.get(ANNOTATION + name)
    if not text:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise _bad(f"annotation {ANNOTATION}{name}", f"{text!r} is not a JSON list of strings")
    return tuple(found)
