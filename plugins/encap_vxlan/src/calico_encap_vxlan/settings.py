"""Settings of the VXLAN driver, as they stand under ``encapsulation:`` in the config file.

VNI, port and MTU are FelixConfiguration's (``vxlanVNI``, ``vxlanPort``, ``vxlanMTU``, ``vxlanMTUV6``): they must be the
same on every node.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class VxlanSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this node's tunnel devices and cluster routes are made."""

    device_ipv4: Annotated[str, Meta(min_length=1, max_length=15, description="Name of the IPv4 tunnel device.")] = (
        "vxlan.calico"
    )
    device_ipv6: Annotated[str, Meta(min_length=1, max_length=15, description="Name of the IPv6 tunnel device.")] = (
        "vxlan-v6.calico"
    )
    route_protocol: Annotated[
        int,
        Meta(ge=5, le=255, description="Kernel protocol number that marks a route as ours; no one else may use it."),
    ] = 80
    check_interval_s: Annotated[
        float, Meta(gt=0, description="Seconds between looks at the underlay for changes that nobody tells of.")
    ] = 10.0
