"""Settings of the kernel itself: the ``agent:`` section of the configuration file.

In:    the section's values, from ``calico_kernel.config.reading``.
Out:   one frozen ``AgentSettings``, to the agent, the shims and the tools.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0)]


class AgentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the node agent and of the tools that speak to it."""

    run_dir: Annotated[str, Meta(description="Directory of sockets and other state that a reboot may lose.")] = (
        "/var/run/calico"
    )
    state_dir: Annotated[str, Meta(description="Directory of state that outlives a reboot.")] = "/var/lib/calico"
    socket: Annotated[
        str, Meta(description="Path of the agent's unix socket; empty means `agent.sock` in `run_dir`.")
    ] = ""
    ipv4_address: Annotated[
        str,
        Meta(
            description="This node's IPv4 address with prefix length, or how to find it: `first-found`, "
            "`interface=REGEX`, `skip-interface=REGEX`, `cidr=CIDR`, `can-reach=ADDRESS`, `none`; `keep` takes what "
            "the Node resource says, else the first found."
        ),
    ] = "keep"
    ipv6_address: Annotated[str, Meta(description="The same for IPv6.")] = "keep"
    health_host: Annotated[str, Meta(description="Address that serves `/liveness` and `/readiness`.")] = "127.0.0.1"
    health_port: Annotated[Port, Meta(description="Port of the health server; 0 turns it off.")] = 9099
    metrics_host: Annotated[str, Meta(description="Address that serves Prometheus metrics.")] = "127.0.0.1"
    metrics_port: Annotated[Port, Meta(description="Port of the metrics server; 0 turns it off.")] = 9091
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severity that is logged.")
    ] = "info"
    log_format: Annotated[Literal["json", "text"], Meta(description="One JSON object or one plain line per entry.")] = (
        "json"
    )
    resync_interval_s: Annotated[
        Seconds, Meta(description="Seconds between full comparisons with the host; 0 turns the timer off.")
    ] = 90.0
    retry_min_s: Annotated[
        float, Meta(gt=0, description="First pause in seconds after a failed apply or a lost datastore.")
    ] = 0.1
    retry_max_s: Annotated[float, Meta(gt=0, description="Longest such pause; each is double the one before.")] = 30.0
    environment_prefix: Annotated[
        str, Meta(description="Prefix of environment variables that override FelixConfiguration fields.")
    ] = "FELIX_"

    @property
    def socket_path(self) -> str:
        return self.socket or f"{self.run_dir.rstrip('/')}/agent.sock"
