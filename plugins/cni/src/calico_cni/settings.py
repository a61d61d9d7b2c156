"""Settings of the extension ``cni`` in the node's configuration."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class CniSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the node agent answers the container runtime.

    policy_wait_s:       how long ADD waits until the endpoint's policy is enforced; 0: it does not wait. A network
                         configuration with ``policy_setup_timeout_seconds`` decides for itself.
    on_policy_timeout:   "error" (default): ADD is undone and answered "try again later" (11), so that no workload
                         starts unprotected or unreachable. "warn": ADD succeeds as Calico's does; until its policy is
                         programmed, packets of the workload are dropped.
    mtu:                 of workload interfaces when the network configuration has none; 0: the file ``mtu`` in the
                         state directory, else the kernel's default.
    interface_prefix:    of host interfaces; must be the one that the dataplane looks for.
    plugin_path:         where IPAM programs are looked for when the runtime passes no CNI_PATH.
    delegate_timeout_s:  an IPAM program that runs longer is killed.
    """

    policy_wait_s: float = 10.0
    on_policy_timeout: Literal["error", "warn"] = "error"
    mtu: int = 0
    interface_prefix: str = "cali"
    plugin_path: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
    delegate_timeout_s: float = 60.0
