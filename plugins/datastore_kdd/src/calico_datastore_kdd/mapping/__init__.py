"""The mapping itself, a module for each family of objects.

In:    the API group that holds Calico's custom resources.
Out:   a ``collection.Mapping``, to the store.
"""

from __future__ import annotations

from calico_datastore_kdd.collection import CRD_GROUP, Group, Mapping


def open_mapping(group: Group = CRD_GROUP, *, use_pod_cidr: bool = False, interface_prefix: str = "cali") -> Mapping:
    """The mapping for one API group.

    use_pod_cidr:      host-local IPAM: a node's blocks are its podCIDRs, and its tunnel address their first one.
    interface_prefix:  of host side interfaces of Pods (the first item of Felix's ``interfacePrefix``).
    """
    from calico_datastore_kdd.mapping.registry import KubernetesMapping

    return KubernetesMapping(group, use_pod_cidr=use_pod_cidr, interface_prefix=interface_prefix)
