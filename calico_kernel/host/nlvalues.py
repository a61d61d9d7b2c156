"""Links, addresses, routes, neighbours, forwarding entries and rules as values, to and from rtnetlink messages.

In:   values that a driver wants, or bytes that the kernel sent.
Out:  ``Request`` for ``calico_kernel.host.netlink.Netlink.execute``, or values. Pure: touches no socket.

Addresses and prefixes are text ("10.0.0.1", "fd00::/64"), MACs lower-case text, interfaces kernel indexes. Equal values
mean that nothing is to be done, with two quirks of the kernel: an IPv6 route has metric 1024 when it was added with 0,
and scope 0 always.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

from calico_kernel.host import nlwire as w


class Request(NamedTuple):
    """One message, without its header. ``body`` is a multiple of four bytes."""

    kind: int
    flags: int
    body: bytes


class VxlanInfo(NamedTuple):
    """``parent``: index of the underlay device, 0 for none. ``local``: own tunnel address, "" for none."""

    vni: int
    local: str = ""
    port: int = 4789
    parent: int = 0
    learning: bool = False
    gbp: bool = False


class Link(NamedTuple):
    """``parent`` is the other end of a veth, or the device below. ``netns_id`` tells that it is in another namespace
    (-1: it is in this one). ``vxlan`` is set for kind "vxlan"."""

    index: int  # type: ignore[assignment]  # tuple.index is not missed
    name: str
    kind: str = ""
    flags: int = 0
    mtu_bytes: int = 0
    mac: str = ""
    master: int = 0
    parent: int = 0
    netns_id: int = -1
    operational: int = 0
    alias: str = ""
    vxlan: VxlanInfo | None = None
    family: int = 0

    @property
    def up(self) -> bool:
        return bool(self.flags & w.IFF_UP)

    @property
    def running(self) -> bool:
        """Has carrier."""
        return bool(self.flags & w.IFF_RUNNING)


class InterfaceAddress(NamedTuple):
    """``peer``: the other end of a point-to-point address, "" when there is none."""

    ifindex: int
    address: str
    prefix_length: int
    scope: int = 0
    flags: int = 0
    label: str = ""
    peer: str = ""


class NextHop(NamedTuple):
    """One leg of a multipath route. ``weight`` counts from 1."""

    ifindex: int
    gateway: str = ""
    weight: int = 1
    onlink: bool = False


class RouteEntry(NamedTuple):
    """``prefix`` always has a length; the default route is "0.0.0.0/0" or "::/0". ``kind``: nlwire.RTN_*.
    ``next_hops`` is for multipath only; ``ifindex`` and ``gateway`` are then empty."""

    prefix: str
    ifindex: int = 0
    gateway: str = ""
    table: int = w.RT_TABLE_MAIN
    protocol: int = w.RTPROT_BOOT
    scope: int = w.RT_SCOPE_UNIVERSE
    kind: int = w.RTN_UNICAST
    metric: int = 0
    source: str = ""
    onlink: bool = False
    mtu_bytes: int = 0
    next_hops: tuple[NextHop, ...] = ()

    @property
    def version(self) -> int:
        return 6 if ":" in self.prefix else 4


class Neighbour(NamedTuple):
    """ARP or NDP entry; a proxy entry (flags NTF_PROXY) has no MAC."""

    ifindex: int
    address: str
    mac: str = ""
    state: int = w.NUD_PERMANENT
    flags: int = 0


class FdbEntry(NamedTuple):
    """Forwarding entry of a VXLAN or bridge device; ``destination``: remote VTEP. Default: on the device itself."""

    ifindex: int
    mac: str
    destination: str = ""
    state: int = w.NUD_PERMANENT
    flags: int = w.NTF_SELF
    vlan: int = 0
    master: int = 0


class Rule(NamedTuple):
    """Policy routing rule: look in ``table`` when all that is given matches."""

    priority: int
    table: int
    version: int = 4
    source: str = ""
    destination: str = ""
    mark: int = 0
    mask: int = 0
    input_interface: str = ""
    output_interface: str = ""
    invert: bool = False
    protocol: int = 0
    action: int = w.FR_ACT_TO_TBL


# ── links ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _link_attrs(
    *,
    name: str = "",
    mtu_bytes: int = 0,
    mac: str = "",
    netns_fd: int | None = None,
    queues: int = 0,
) -> bytes:
    parts = []
    if name:
        parts.append(w.attr_text(w.IFLA_IFNAME, name))
    if mtu_bytes:
        parts.append(w.attr_u32(w.IFLA_MTU, mtu_bytes))
    if mac:
        parts.append(w.attr(w.IFLA_ADDRESS, w.mac_bytes(mac)))
    if netns_fd is not None:
        parts.append(w.attr_u32(w.IFLA_NET_NS_FD, netns_fd))
    if queues > 1:
        parts.append(w.attr_u32(w.IFLA_NUM_TX_QUEUES, queues) + w.attr_u32(w.IFLA_NUM_RX_QUEUES, queues))
    return b"".join(parts)


def add_link(
    name: str, kind: str, *, mtu_bytes: int = 0, mac: str = "", up: bool = False, vxlan: VxlanInfo | None = None
) -> Request:
    """A new device of ``kind`` ("bridge", "vxlan", "ipip"...); EEXIST when the name is taken."""
    flags = w.IFF_UP if up else 0
    info = [w.attr_text(w.IFLA_INFO_KIND, kind)]
    if vxlan is not None:
        info.append(w.nested(w.IFLA_INFO_DATA, _vxlan_attrs(vxlan)))
    body = (
        w.IFINFOMSG.pack(w.AF_UNSPEC, 0, 0, flags, flags)
        + _link_attrs(name=name, mtu_bytes=mtu_bytes, mac=mac)
        + w.nested(w.IFLA_LINKINFO, *info)
    )
    return Request(w.RTM_NEWLINK, w.NLM_F_CREATE | w.NLM_F_EXCL, body)


def _vxlan_attrs(vxlan: VxlanInfo) -> bytes:
    parts = [w.attr_u32(w.IFLA_VXLAN_ID, vxlan.vni), w.attr(w.IFLA_VXLAN_PORT, struct.pack(">H", vxlan.port))]
    parts.append(w.attr(w.IFLA_VXLAN_LEARNING, bytes([vxlan.learning])))
    if vxlan.local:
        six = ":" in vxlan.local
        parts.append(w.attr(w.IFLA_VXLAN_LOCAL6 if six else w.IFLA_VXLAN_LOCAL, pack_address(vxlan.local)))
    if vxlan.parent:
        parts.append(w.attr_u32(w.IFLA_VXLAN_LINK, vxlan.parent))
    if vxlan.gbp:
        parts.append(w.attr(w.IFLA_VXLAN_GBP, b""))
    return b"".join(parts)


def add_veth(
    name: str,
    peer: str,
    *,
    peer_netns_fd: int | None = None,
    mtu_bytes: int = 0,
    mac: str = "",
    peer_mac: str = "",
    up: bool = False,
    queues: int = 0,
) -> Request:
    """Both ends of a veth at once; ``peer`` is born in the namespace ``peer_netns_fd`` when that is given.
    The peer is born down: the kernel cannot bring it up before the two are paired."""
    flags = w.IFF_UP if up else 0
    peer_body = w.IFINFOMSG.pack(w.AF_UNSPEC, 0, 0, 0, 0) + _link_attrs(
        name=peer, mtu_bytes=mtu_bytes, mac=peer_mac, netns_fd=peer_netns_fd, queues=queues
    )
    body = (
        w.IFINFOMSG.pack(w.AF_UNSPEC, 0, 0, flags, flags)
        + _link_attrs(name=name, mtu_bytes=mtu_bytes, mac=mac, queues=queues)
        + w.nested(
            w.IFLA_LINKINFO,
            w.attr_text(w.IFLA_INFO_KIND, "veth"),
            w.nested(w.IFLA_INFO_DATA, w.nested(w.VETH_INFO_PEER, peer_body)),
        )
    )
    return Request(w.RTM_NEWLINK, w.NLM_F_CREATE | w.NLM_F_EXCL, body)


def set_link(
    index: int = 0,
    *,
    name: str = "",
    up: bool | None = None,
    mtu_bytes: int = 0,
    mac: str = "",
    rename: str = "",
    master: int | None = None,
    netns_fd: int | None = None,
    alias: str | None = None,
) -> Request:
    """Change a device given by ``index`` or ``name``; what is left out stays. ``master`` 0: no bridge."""
    flags = w.IFF_UP if up else 0
    parts = [w.IFINFOMSG.pack(w.AF_UNSPEC, 0, index, flags, 0 if up is None else w.IFF_UP)]
    if not index:
        parts.append(w.attr_text(w.IFLA_IFNAME, name))
    elif rename:
        parts.append(w.attr_text(w.IFLA_IFNAME, rename))
    parts.append(_link_attrs(mtu_bytes=mtu_bytes, mac=mac, netns_fd=netns_fd))
    if master is not None:
        parts.append(w.attr_u32(w.IFLA_MASTER, master))
    if alias is not None:
        parts.append(w.attr(w.IFLA_IFALIAS, alias.encode()))
    return Request(w.RTM_NEWLINK, 0, b"".join(parts))


def delete_link(index: int = 0, *, name: str = "") -> Request:
    """ENODEV when it is not there."""
    body = w.IFINFOMSG.pack(w.AF_UNSPEC, 0, index, 0, 0)
    return Request(w.RTM_DELLINK, 0, body if index else body + w.attr_text(w.IFLA_IFNAME, name))


def decode_link(body: bytes) -> Link:
    family, _, index, flags, _ = w.IFINFOMSG.unpack_from(body)
    found = w.attributes(body, 16)
    kind, vxlan = "", None
    if w.IFLA_LINKINFO in found:
        info = w.attributes(found[w.IFLA_LINKINFO])
        kind = w.text(info.get(w.IFLA_INFO_KIND, b""))
        if kind == "vxlan" and w.IFLA_INFO_DATA in info:
            vxlan = _decode_vxlan(w.attributes(info[w.IFLA_INFO_DATA]))
    mac = found.get(w.IFLA_ADDRESS, b"")
    netns_id = found.get(w.IFLA_LINK_NETNSID)
    return Link(
        index=index,
        name=w.text(found.get(w.IFLA_IFNAME, b"")),
        kind=kind,
        flags=flags,
        mtu_bytes=w.u32(found.get(w.IFLA_MTU)),
        mac=w.mac_text(mac) if len(mac) == 6 else "",
        master=w.u32(found.get(w.IFLA_MASTER)),
        parent=w.u32(found.get(w.IFLA_LINK)),
        netns_id=-1 if netns_id is None else w.S32.unpack_from(netns_id)[0],
        operational=found.get(w.IFLA_OPERSTATE, b"\0")[0],
        alias=w.text(found.get(w.IFLA_IFALIAS, b"")),
        vxlan=vxlan,
        family=family,
    )


def _decode_vxlan(found: dict[int, bytes]) -> VxlanInfo:
    local = found.get(w.IFLA_VXLAN_LOCAL6) or found.get(w.IFLA_VXLAN_LOCAL) or b""
    port = found.get(w.IFLA_VXLAN_PORT, b"\0\0")
    return VxlanInfo(
        vni=w.u32(found.get(w.IFLA_VXLAN_ID)),
        local=unpack_address(local) if any(local) else "",
        port=int.from_bytes(port, "big"),
        parent=w.u32(found.get(w.IFLA_VXLAN_LINK)),
        learning=found.get(w.IFLA_VXLAN_LEARNING, b"\0") != b"\0",
        gbp=w.IFLA_VXLAN_GBP in found,
    )


# ── addresses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_address(address: str) -> bytes:
    """Four or sixteen bytes. Raises OSError for what is no address."""
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)


def unpack_address(data: bytes) -> str:
    return inet_ntop(AF_INET if len(data) == 4 else AF_INET6, data)


def _address(kind: int, flags: int, entry: InterfaceAddress) -> Request:
    family = AF_INET6 if ":" in entry.address else AF_INET
    local = inet_pton(family, entry.address)
    body = w.IFADDRMSG.pack(family, entry.prefix_length, entry.flags & 0xFF, entry.scope, entry.ifindex)
    body += w.attr(w.IFA_LOCAL, local)
    body += w.attr(w.IFA_ADDRESS, inet_pton(family, entry.peer) if entry.peer else local)
    if entry.flags > 0xFF:
        body += w.attr_u32(w.IFA_FLAGS, entry.flags)
    if entry.label and family == AF_INET:
        body += w.attr_text(w.IFA_LABEL, entry.label)
    return Request(kind, flags, body)


def add_address(entry: InterfaceAddress) -> Request:
    """EEXIST when the interface has it."""
    return _address(w.RTM_NEWADDR, w.NLM_F_CREATE | w.NLM_F_EXCL, entry)


def replace_address(entry: InterfaceAddress) -> Request:
    return _address(w.RTM_NEWADDR, w.NLM_F_CREATE | w.NLM_F_REPLACE, entry)


def delete_address(entry: InterfaceAddress) -> Request:
    """EADDRNOTAVAIL when the interface has not got it."""
    return _address(w.RTM_DELADDR, 0, entry)


def decode_address(body: bytes) -> InterfaceAddress:
    _, length, flags, scope, ifindex = w.IFADDRMSG.unpack_from(body)
    found = w.attributes(body, 8)
    other = found.get(w.IFA_ADDRESS, b"")
    own = found.get(w.IFA_LOCAL, other)
    return InterfaceAddress(
        ifindex=ifindex,
        address=unpack_address(own),
        prefix_length=length,
        scope=scope,
        flags=w.u32(found.get(w.IFA_FLAGS), flags),
        label=w.text(found.get(w.IFA_LABEL, b"")),
        peer=unpack_address(other) if other != own and other else "",
    )


# ── routes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_ROUTE4 = struct.Struct("=BBBBBBBBIHH4sHHI")
_ROUTE6 = struct.Struct("=BBBBBBBBIHH16sHHI")
_UNREACHING = frozenset((w.RTN_BLACKHOLE, w.RTN_UNREACHABLE, w.RTN_PROHIBIT, w.RTN_THROW))


def route_body(entry: RouteEntry) -> bytes:
    prefix, ifindex, gateway, table, protocol, scope, kind, metric, source, onlink, mtu_bytes, next_hops = entry
    address, _, length = prefix.partition("/")
    flags = w.RTNH_F_ONLINK if onlink else 0
    short = table if table < 256 else 0
    if ":" in address:
        packed = inet_pton(AF_INET6, address)
        body = _ROUTE6.pack(
            AF_INET6, int(length), 0, 0, short, protocol, 0, kind, flags, 20, w.RTA_DST, packed, 8, w.RTA_TABLE, table
        )
    else:
        packed = inet_pton(AF_INET, address)
        body = _ROUTE4.pack(
            AF_INET, int(length), 0, 0, short, protocol, scope, kind, flags, 8, w.RTA_DST, packed, 8, w.RTA_TABLE, table
        )
    if ifindex:
        body += w.ATTR_U32.pack(8, w.RTA_OIF, ifindex)
    if gateway:
        body += w.attr(w.RTA_GATEWAY, inet_pton(AF_INET6 if ":" in gateway else AF_INET, gateway))
    if metric:
        body += w.ATTR_U32.pack(8, w.RTA_PRIORITY, metric)
    if source:
        body += w.attr(w.RTA_PREFSRC, pack_address(source))
    if mtu_bytes:
        body += w.nested(w.RTA_METRICS, w.attr_u32(w.RTAX_MTU, mtu_bytes))
    if next_hops:
        body += w.attr(w.RTA_MULTIPATH, b"".join(_next_hop(hop) for hop in next_hops))
    return body


def _next_hop(hop: NextHop) -> bytes:
    via = w.attr(w.RTA_GATEWAY, pack_address(hop.gateway)) if hop.gateway else b""
    flags = w.RTNH_F_ONLINK if hop.onlink else 0
    return w.RTNEXTHOP.pack(8 + len(via), flags, max(hop.weight - 1, 0), hop.ifindex) + via


def add_route(entry: RouteEntry) -> Request:
    """EEXIST when a route of that prefix, table and metric is there."""
    return Request(w.RTM_NEWROUTE, w.NLM_F_CREATE | w.NLM_F_EXCL, route_body(entry))


def replace_route(entry: RouteEntry) -> Request:
    """In place of the route of the same prefix, table and metric, or new; never a moment without one.

    The kernel matches an IPv4 route of the same prefix, table and metric whatever its type; an IPv6 route as well, but
    it cannot turn a route with next hop into one without (blackhole): delete and add those.
    """
    return Request(w.RTM_NEWROUTE, w.NLM_F_CREATE | w.NLM_F_REPLACE, route_body(entry))


def delete_route(entry: RouteEntry) -> Request:
    """The first route that matches all that ``entry`` says; ESRCH when there is none. ``scope`` 255 and ``kind`` 0
    match any; protocol 0 as well."""
    return Request(w.RTM_DELROUTE, 0, route_body(entry))


def decode_route(body: bytes) -> RouteEntry:
    family, length, _, _, short, protocol, scope, kind, flags = w.RTMSG.unpack_from(body)
    found = w.attributes(body, 12)
    get = found.get
    destination = get(w.RTA_DST)
    if destination is not None:
        address = inet_ntop(family, destination)
    else:
        address = "0.0.0.0" if family == AF_INET else "::"
    gateway, source, many, metrics = get(w.RTA_GATEWAY), get(w.RTA_PREFSRC), get(w.RTA_MULTIPATH), get(w.RTA_METRICS)
    ifindex = 0 if kind in _UNREACHING else w.u32(get(w.RTA_OIF))  # IPv6 says that a blackhole is on "lo"
    return RouteEntry(
        f"{address}/{length}",
        ifindex,
        unpack_address(gateway) if gateway else "",
        w.u32(get(w.RTA_TABLE), short),
        protocol,
        scope,
        kind,
        w.u32(get(w.RTA_PRIORITY)),
        unpack_address(source) if source else "",
        bool(flags & w.RTNH_F_ONLINK),
        w.u32(w.attributes(metrics).get(w.RTAX_MTU)) if metrics else 0,
        _decode_next_hops(many) if many else (),
    )


def _decode_next_hops(data: bytes) -> tuple[NextHop, ...]:
    hops, start = [], 0
    while start + 8 <= len(data):
        size, flags, weight, ifindex = w.RTNEXTHOP.unpack_from(data, start)
        if size < 8:
            break
        via = w.attributes(data[start + 8 : start + size]).get(w.RTA_GATEWAY)
        hops.append(NextHop(ifindex, unpack_address(via) if via else "", weight + 1, bool(flags & w.RTNH_F_ONLINK)))
        start += (size + 3) & ~3
    return tuple(hops)


# ── neighbours, forwarding entries, rules ─────────────────────────────────────────────────────────────────────────────


def _neighbour(kind: int, flags: int, entry: Neighbour) -> Request:
    family = AF_INET6 if ":" in entry.address else AF_INET
    body = w.NDMSG.pack(family, entry.ifindex, entry.state, entry.flags, 0)
    body += w.attr(w.NDA_DST, inet_pton(family, entry.address))
    if entry.mac:
        body += w.attr(w.NDA_LLADDR, w.mac_bytes(entry.mac))
    return Request(kind, flags, body)


def replace_neighbour(entry: Neighbour) -> Request:
    return _neighbour(w.RTM_NEWNEIGH, w.NLM_F_CREATE | w.NLM_F_REPLACE, entry)


def delete_neighbour(entry: Neighbour) -> Request:
    """ENOENT when it is not there."""
    return _neighbour(w.RTM_DELNEIGH, 0, entry)


def decode_neighbour(body: bytes) -> Neighbour:
    _, ifindex, state, flags, _ = w.NDMSG.unpack_from(body)
    found = w.attributes(body, 12)
    mac = found.get(w.NDA_LLADDR, b"")
    address = found.get(w.NDA_DST, b"")
    return Neighbour(ifindex, unpack_address(address) if address else "", mac.hex(":") if mac else "", state, flags)


def _fdb(kind: int, flags: int, entry: FdbEntry) -> Request:
    body = w.NDMSG.pack(w.AF_BRIDGE, entry.ifindex, entry.state, entry.flags, 0)
    body += w.attr(w.NDA_LLADDR, w.mac_bytes(entry.mac))
    if entry.destination:
        body += w.attr(w.NDA_DST, pack_address(entry.destination))
    if entry.vlan:
        body += w.attr(w.NDA_VLAN, struct.pack("=H", entry.vlan))
    return Request(kind, flags, body)


def replace_fdb(entry: FdbEntry) -> Request:
    return _fdb(w.RTM_NEWNEIGH, w.NLM_F_CREATE | w.NLM_F_REPLACE, entry)


def delete_fdb(entry: FdbEntry) -> Request:
    """ENOENT when it is not there."""
    return _fdb(w.RTM_DELNEIGH, 0, entry)


def decode_fdb(body: bytes) -> FdbEntry:
    _, ifindex, state, flags, _ = w.NDMSG.unpack_from(body)
    found = w.attributes(body, 12)
    destination, vlan = found.get(w.NDA_DST), found.get(w.NDA_VLAN)
    return FdbEntry(
        ifindex=ifindex,
        mac=w.mac_text(found.get(w.NDA_LLADDR, b"")) if found.get(w.NDA_LLADDR) else "",
        destination=unpack_address(destination) if destination else "",
        state=state,
        flags=flags,
        vlan=int(struct.unpack("=H", vlan[:2])[0]) if vlan else 0,
        master=w.u32(found.get(w.NDA_MASTER)),
    )


def _rule(kind: int, flags: int, rule: Rule) -> Request:
    family = AF_INET6 if rule.version == 6 else AF_INET
    source, _, source_length = rule.source.partition("/")
    destination, _, destination_length = rule.destination.partition("/")
    body = w.RTMSG.pack(
        family,
        int(destination_length or 0),
        int(source_length or 0),
        0,
        rule.table if rule.table < 256 else 0,
        0,
        0,
        rule.action,
        w.FIB_RULE_INVERT if rule.invert else 0,
    )
    body += w.attr_u32(w.FRA_PRIORITY, rule.priority) + w.attr_u32(w.FRA_TABLE, rule.table)
    if rule.protocol:
        body += w.attr(w.FRA_PROTOCOL, bytes([rule.protocol]))
    if source:
        body += w.attr(w.FRA_SRC, pack_address(source))
    if destination:
        body += w.attr(w.FRA_DST, pack_address(destination))
    if rule.mark or rule.mask:
        body += w.attr_u32(w.FRA_FWMARK, rule.mark) + w.attr_u32(w.FRA_FWMASK, rule.mask or 0xFFFFFFFF)
    if rule.input_interface:
        body += w.attr_text(w.FRA_IIFNAME, rule.input_interface)
    if rule.output_interface:
        body += w.attr_text(w.FRA_OIFNAME, rule.output_interface)
    return Request(kind, flags, body)


def add_rule(rule: Rule) -> Request:
    """EEXIST when the same rule is there."""
    return _rule(w.RTM_NEWRULE, w.NLM_F_CREATE | w.NLM_F_EXCL, rule)


def delete_rule(rule: Rule) -> Request:
    """ENOENT when no rule matches."""
    return _rule(w.RTM_DELRULE, 0, rule)


def decode_rule(body: bytes) -> Rule:
    family, to_length, from_length, _, short, _, _, action, flags = w.RTMSG.unpack_from(body)
    found = w.attributes(body, 12)
    source, destination, mark = found.get(w.FRA_SRC), found.get(w.FRA_DST), w.u32(found.get(w.FRA_FWMARK))
    return Rule(
        priority=w.u32(found.get(w.FRA_PRIORITY)),
        table=w.u32(found.get(w.FRA_TABLE), short),
        version=6 if family == AF_INET6 else 4,
        source=f"{unpack_address(source)}/{from_length}" if source else "",
        destination=f"{unpack_address(destination)}/{to_length}" if destination else "",
        mark=mark,
        mask=w.u32(found.get(w.FRA_FWMASK)),
        input_interface=w.text(found.get(w.FRA_IIFNAME, b"")),
        output_interface=w.text(found.get(w.FRA_OIFNAME, b"")),
        invert=bool(flags & w.FIB_RULE_INVERT),
        protocol=found.get(w.FRA_PROTOCOL, b"\0")[0],
        action=action,
    )
