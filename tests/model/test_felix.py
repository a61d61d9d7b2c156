from __future__ import annotations

from typing import Any

import pytest

from calico_kernel.model.felix import FelixConfiguration, FelixConfigurationSpec, HealthTimeoutOverride, ProtoPort
from calico_kernel.model.felix_parameters import PARAMETERS
from calico_kernel.model.felix_resolve import choose, resolve
from calico_kernel.model.meta import ObjectMeta


def document(name: str = "default", created: str | None = None, **spec: Any) -> FelixConfiguration:
    return FelixConfiguration(
        metadata=ObjectMeta(name=name, creation_timestamp=created), spec=FelixConfigurationSpec(**spec)
    )


def test_every_field_of_the_document_is_a_parameter_but_the_selector() -> None:
    assert len(FelixConfigurationSpec.__struct_fields__) == 188
    assert set(FelixConfigurationSpec.__struct_fields__) - {"node_selector"} == set(PARAMETERS)


def test_nothing_set_yields_felix_defaults_with_durations_in_seconds() -> None:
    result = resolve()
    config = result.config
    assert set(config.values) == set(PARAMETERS)
    assert set(config.sources.values()) == {"default"} and result.problems == ()
    assert (config.iptables_refresh_interval, config.iptables_lock_probe_interval) == (180.0, 0.05)
    assert (config.iptables_filter_deny_action, config.iptables_backend) == ("Drop", "Auto")
    assert (config.vxlan_enabled, config.vxlan_vni, config.interface_prefix) == (None, 4096, "cali")
    assert len(config.failsafe_inbound_host_ports) == 9 and len(config.failsafe_outbound_host_ports) == 9


def test_narrower_layer_wins_and_the_source_is_named() -> None:
    config = resolve(
        document(log_severity_screen="Info", vxlan_port=1, vxlan_vni=1, wireguard_mtu=1, reporting_interval="0s"),
        document("blue", vxlan_port=2, vxlan_vni=2, wireguard_mtu=2),
        document("node.n", vxlan_vni=3, wireguard_mtu=3),
        {"FELIX_WireguardMTU": "4", "PATH": "/bin", "FELIX_Unknown": "x"},
    ).config
    assert (config.vxlan_port, config.vxlan_vni, config.wireguard_mtu, config.reporting_interval) == (2, 3, 4, 0.0)
    names = ("log_severity_screen", "vxlan_port", "vxlan_vni", "wireguard_mtu", "ipip_mtu")
    assert [config.sources[name] for name in names] == ["global", "selector:blue", "node", "environment", "default"]


def test_choices_are_spelt_as_in_the_api_however_they_were_written() -> None:
    config = resolve(
        document(default_endpoint_to_host_action="ACCEPT"),
        environment={"FELIX_IPTABLESBACKEND": "nft", "FELIX_BPFLOGLEVEL": "DEBUG"},
    ).config
    assert (config.default_endpoint_to_host_action, config.iptables_backend, config.bpf_log_level) == (
        *("Accept", "NFT", "Debug"),
    )


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("iptables_refresh_interval", "ten"),
        ("default_endpoint_to_host_action", "Maybe"),
        ("vxlan_port", 70000),
        ("iptables_mark_mask", 1),
        ("interface_prefix", "has space"),
        ("mtu_iface_pattern", "("),
    ],
)
def test_bad_value_counts_as_the_built_in_default_and_is_reported(attribute: str, value: Any) -> None:
    result = resolve(document(vxlan_vni=9, **{attribute: value}))
    assert result.config.values[attribute] == PARAMETERS[attribute].default
    assert result.config.sources[attribute] == "default"
    assert result.config.vxlan_vni == 9
    ((name, reason),) = result.problems
    assert name == attribute and reason.startswith("global: ")


def test_bad_value_in_a_narrower_layer_hides_the_broader_one() -> None:
    result = resolve(document(vxlan_port=5000), environment={"FELIX_VXLANPORT": "x"})
    assert result.config.vxlan_port == 4789


@pytest.mark.parametrize(
    ("name", "text", "attribute", "value"),
    [
        ("Ipv6Support", "N", "ipv6_support", False),
        ("ReportingIntervalSecs", "1.5", "reporting_interval", 1.5),
        ("IptablesLockProbeIntervalMillis", "70", "iptables_lock_probe_interval", 0.07),
        ("IptablesMarkMask", "0xff00", "iptables_mark_mask", 0xFF00),
        ("KubeNodePortRanges", "30000:31000, 80", "kube_node_port_ranges", ("30000:31000", 80)),
        ("NATPortRange", "100:200", "nat_port_range", "100:200"),
        ("ExternalNodesCIDRList", "10.0.0.0/8,192.0.2.1", "external_nodes_list", ("10.0.0.0/8", "192.0.2.1")),
        ("HealthTimeoutOverrides", "calc=1m", "health_timeout_overrides", {"calc": 60.0}),
        ("FailsafeInboundHostPorts", "none", "failsafe_inbound_host_ports", ()),
        (
            "FailsafeInboundHostPorts",
            "22,udp:[fd00::/8]:53",
            "failsafe_inbound_host_ports",
            (ProtoPort(protocol="tcp", port=22), ProtoPort(protocol="udp", port=53, net="fd00::/8")),
        ),
        ("LogFilePath", "none", "log_file_path", ""),
        ("VXLANEnabled", "none", "vxlan_enabled", None),
        ("FlowLogsPolicyEvaluationMode", "none", "flow_logs_policy_evaluation_mode", "None"),
        ("IstioDSCPMark", "AF11", "istio_dscp_mark", "AF11"),
    ],
)
def test_environment_is_read_by_the_type_of_the_parameter(name: str, text: str, attribute: str, value: Any) -> None:
    result = resolve(environment={f"FELIX_{name}": text})
    assert result.config.values[attribute] == value and result.problems == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DefaultEndpointToHostAction", "none"),
        ("Ipv6Support", "maybe"),
        ("FailsafeInboundHostPorts", "icmp:1"),
        ("FailsafeInboundHostPorts", "tcp:99999"),
        ("RouteTableRange", "9-300"),
        ("RouteTableRanges", "a-b"),
        ("BPFConntrackTimeouts", "Soon=1s"),
        ("KubeNodePortRanges", "http"),
        ("VXLANPort", "1e3"),
    ],
)
def test_environment_that_cannot_be_read_is_reported(name: str, text: str) -> None:
    result = resolve(environment={f"FELIX_{name}": text})
    assert len(result.problems) == 1 and result.problems[0][1].startswith("environment: ")


def test_partial_conntrack_timeouts_keep_the_other_defaults() -> None:
    timeouts = resolve(environment={"FELIX_BPFConntrackTimeouts": "TCPSynSent=5s"}).config.bpf_conntrack_timeouts
    assert (timeouts.tcp_syn_sent, timeouts.udp_timeout) == ("5s", "60s")


def test_health_timeouts_of_a_document_are_seconds_by_name() -> None:
    override = HealthTimeoutOverride(name="calc", timeout="1m30s")
    assert resolve(document(health_timeout_overrides=(override,))).config.health_timeout_overrides == {"calc": 90.0}


def test_oldest_of_several_selected_documents_is_chosen() -> None:
    older, newer = document("b", "2026-01-01T00:00:00Z"), document("a", "2026-02-01T00:00:00Z")
    assert choose([newer, older]) is older
    assert choose([]) is None


def test_another_prefix_of_the_environment_may_be_given() -> None:
    environment = {"FELIX_VXLANVNI": "1", "CALICO_FELIX_VXLANVNI": "2"}
    assert resolve(environment=environment, prefix="CALICO_FELIX_").config.vxlan_vni == 2
