"""What FelixConfiguration says about this dataplane, read once for each change of it.

In:  ``ResolvedConfig`` (v3 field names in snake case, durations in seconds). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import attrs

from calico_dp_iptables.names import Marks
from calico_kernel.model.nodestate import ResolvedConfig

_FAILSAFE_IN = ("tcp:22", "udp:68", "tcp:179", "tcp:2379", "tcp:2380", "tcp:5473", "tcp:6443", "tcp:6666", "tcp:6667")
_FAILSAFE_OUT = ("udp:53", "udp:67", "tcp:179", "tcp:2379", "tcp:2380", "tcp:5473", "tcp:6443", "tcp:6666", "tcp:6667")
PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}


@attrs.frozen
class Failsafe:
    """A port of this host that no policy can close. ``net``: only for that remote prefix; "" for all."""

    protocol: int
    port: int
    net: str = ""


@attrs.frozen(kw_only=True)
class Options:
    """Defaults are Calico's. Action names are lower case. ``*_s``: seconds, 0 for never."""

    backend: str = "auto"
    ipv6: bool = True
    workload_prefixes: tuple[str, ...] = ("cali",)
    marks: Marks = attrs.field(factory=lambda: Marks.from_mask(0xFFFF0000))
    insert: bool = True
    allow: str = "accept"
    mangle_allow: str = "accept"
    deny: str = "drop"
    workload_to_host: str = "drop"
    check_invalid: bool = True
    allow_vxlan_from_workloads: bool = False
    allow_ipip_from_workloads: bool = False
    vxlan_port: int = 4789
    log_prefix: str = "calico-packet"
    log_rate: str = ""
    log_burst: int = 5
    failsafe_in: tuple[Failsafe, ...] = ()
    failsafe_out: tuple[Failsafe, ...] = ()
    nat_ports: str = ""
    nat_address: str = ""
    nat_exclude_hosts: bool = False
    nat_interface: str = ""
    floating_ips: bool = False
    max_set_size: int = 1048576
    refresh_s: float = 180.0
    post_write_check_s: float = 5.0
    sets_refresh_s: float = 90.0
    routes_refresh_s: float = 90.0
    route_protocol: int = 3
    route_source_ipv4: str = ""
    route_source_ipv6: str = ""
    sync_routes: bool = True
    remove_external_routes: bool = True
    any_source: bool = False
    ip_forwarding: bool = True

    @classmethod
    def from_config(cls, config: ResolvedConfig | None) -> Self:
        """A value that cannot be used is replaced by its default: configuration was validated before it came here."""
        values: Mapping[str, Any] = config.values if config is not None else {}

        def get(name: str, default: Any) -> Any:
            value = values.get(name)
            return default if value is None else value

        def word(name: str, default: str) -> str:
            return str(get(name, default)).lower()

        try:
            marks = Marks.from_mask(int(get("iptables_mark_mask", 0xFFFF0000)))
        except ValueError:
            marks = Marks.from_mask(0xFFFF0000)
        prefixes = tuple(part.strip() for part in str(get("interface_prefix", "cali")).split(",") if part.strip())
        ports = str(get("nat_port_range", "") or "")
        return cls(
            backend=word("iptables_backend", "auto"),
            ipv6=bool(get("ipv6_support", True)),
            workload_prefixes=prefixes or ("cali",),
            marks=marks,
            insert=word("chain_insert_mode", "insert") == "insert",
            allow=word("iptables_filter_allow_action", "accept"),
            mangle_allow=word("iptables_mangle_allow_action", "accept"),
            deny=word("iptables_filter_deny_action", "drop"),
            workload_to_host=word("default_endpoint_to_host_action", "drop"),
            check_invalid=not get("disable_conntrack_invalid_check", False),
            allow_vxlan_from_workloads=bool(get("allow_vxlan_packets_from_workloads", False)),
            allow_ipip_from_workloads=bool(get("allow_ipip_packets_from_workloads", False)),
            vxlan_port=int(get("vxlan_port", 4789)),
            log_prefix=str(get("log_prefix", "calico-packet")),
            log_rate=str(get("log_action_rate_limit", "") or ""),
            log_burst=int(get("log_action_rate_limit_burst", 5)),
            failsafe_in=tuple(_failsafes(get("failsafe_inbound_host_ports", _FAILSAFE_IN))),
            failsafe_out=tuple(_failsafes(get("failsafe_outbound_host_ports", _FAILSAFE_OUT))),
            nat_ports=ports.replace(":", "-") if ports not in ("", "0") else "",
            nat_address=str(get("nat_outgoing_address", "") or ""),
            nat_exclude_hosts=word("nat_outgoing_exclusions", "ippoolsonly") == "ippoolsandhostips",
            nat_interface=str(get("iptables_nat_outgoing_interface_filter", "") or ""),
            floating_ips=word("floating_ips", "disabled") == "enabled",
            max_set_size=int(get("max_ipset_size", 1048576)),
            refresh_s=float(get("iptables_refresh_interval", 180.0)),
            post_write_check_s=float(get("iptables_post_write_check_interval", 5.0)),
            sets_refresh_s=float(get("ipsets_refresh_interval", 90.0)),
            routes_refresh_s=float(get("route_refresh_interval", 90.0)),
            route_protocol=int(get("device_route_protocol", 3)),
            route_source_ipv4=str(get("device_route_source_address", "") or ""),
            route_source_ipv6=str(get("device_route_source_address_ipv6", "") or ""),
            sync_routes=not get("route_sync_disabled", False),
            remove_external_routes=bool(get("remove_external_routes", True)),
            any_source=word("workload_source_spoofing", "disabled") == "any",
            ip_forwarding=word("ip_forwarding", "enabled") == "enabled",
        )


def _failsafes(listed: Any) -> Iterable[Failsafe]:
    """From ``{protocol, port, net}`` values (mappings or structs) or Felix's text, "tcp:22" or "tcp:10.0.0.0/8:22"."""
    if isinstance(listed, str):
        listed = [] if listed == "none" else listed.split(",")
    for item in listed:
        if isinstance(item, str):
            protocol, _, rest = item.strip().partition(":")
            net, _, port = rest.rpartition(":")
            fields: Mapping[str, Any] = {"protocol": protocol, "net": net.strip("[]"), "port": port}
        elif isinstance(item, Mapping):
            fields = item
        else:
            fields = {name: getattr(item, name, None) for name in ("protocol", "net", "port")}
        number = PROTOCOL_NUMBERS.get(str(fields.get("protocol") or "tcp").lower())
        if number is not None:
            yield Failsafe(number, int(fields.get("port") or 0), str(fields.get("net") or ""))
