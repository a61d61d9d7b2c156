"""Which documents make the configuration of this node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from calico_kernel.calc import Calculator
from calico_kernel.model.felix import FelixConfiguration, FelixConfigurationSpec
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta


def document(name: str, created: str | None = None, **spec: Any) -> Any:
    value = FelixConfiguration(
        metadata=ObjectMeta(name=name, creation_timestamp=created), spec=FelixConfigurationSpec(**spec)
    )
    return ResourceKey("FelixConfiguration", "", name), value


def node_with(make: SimpleNamespace, name: str, **labels: str) -> Any:
    key, value = make.node(name, "172.16.0.1/24")
    return key, type(value)(metadata=ObjectMeta(name=name, labels=labels), spec=value.spec)


def test_first_delta_has_every_parameter_with_its_default(make: SimpleNamespace) -> None:
    n1 = make.node1()
    assert n1.state.config.vxlan_vni == 4096
    assert n1.state.config.sources["vxlan_vni"] == "default"


def test_layers_overrule_each_other_in_order(make: SimpleNamespace) -> None:
    n1 = make.node1(document("default", vxlan_vni=1, vxlan_port=1), document("node.n2", vxlan_vni=9))
    assert (n1.state.config.vxlan_vni, n1.state.config.sources["vxlan_vni"]) == (1, "global")
    n1.update(document("racks", node_selector="rack == 'a'", vxlan_vni=2), node_with(make, "n1", rack="a"))
    assert (n1.state.config.vxlan_vni, n1.state.config.sources["vxlan_vni"]) == (2, "selector:racks")
    n1.update(document("node.n1", vxlan_vni=3))
    assert (n1.state.config.vxlan_vni, n1.state.config.sources["vxlan_vni"]) == (3, "node")
    assert n1.state.config.vxlan_port == 1
    n1.update(make.gone(document("node.n1")), node_with(make, "n1", rack="b"))
    assert n1.state.config.vxlan_vni == 1


def test_environment_overrules_what_is_stored() -> None:
    calculator = Calculator("n1", {"FELIX_VXLANVNI": "7", "FELIX_VXLANPort": "nonsense", "PATH": "/bin"})
    calculator.update([document("node.n1", vxlan_vni=3)])
    calculator.in_sync()
    delta = calculator.flush()
    assert delta is not None and delta.config is not None
    assert (delta.config.vxlan_vni, delta.config.sources["vxlan_vni"]) == (7, "environment")
    assert delta.config.vxlan_port == 4789
    assert list(calculator.problems) == [ResourceKey("FelixConfiguration", "", "environment")]


def test_of_several_that_select_the_node_the_oldest_counts(make: SimpleNamespace) -> None:
    n1 = make.node1(
        node_with(make, "n1", rack="a"),
        document("a", "2024-02-01T00:00:00Z", node_selector="has(rack)", vxlan_vni=2),
        document("b", "2024-01-01T00:00:00Z", node_selector="rack == 'a'", vxlan_vni=3),
        document("c", "2023-01-01T00:00:00Z", node_selector="rack == 'z'", vxlan_vni=4),
    )
    assert n1.state.config.vxlan_vni == 3


def test_document_with_an_unusable_selector_is_absent(make: SimpleNamespace) -> None:
    n1 = make.node1(node_with(make, "n1", rack="a"), document("a", node_selector="has(rack)", vxlan_vni=2))
    key, value = document("a", node_selector="oops ==", vxlan_vni=2)
    n1.update((key, value))
    assert n1.state.config.vxlan_vni == 4096
    assert "oops" in n1.calculator.problems[key]


def test_unrelated_document_changes_nothing(make: SimpleNamespace) -> None:
    n1 = make.node1(document("default", vxlan_vni=5))
    assert n1.update(document("node.n2", vxlan_vni=9)) is None


def test_switches_overrule_what_pools_need(make: SimpleNamespace) -> None:
    n1 = make.node1(make.pool("p", "10.0.0.0/16", vxlan_mode="Always"))
    assert n1.state.needs.vxlan_ipv4 and not n1.state.needs.ipip
    n1.update(document("default", vxlan_enabled=False, ipip_enabled=True))
    assert not n1.state.needs.vxlan_ipv4 and n1.state.needs.ipip
