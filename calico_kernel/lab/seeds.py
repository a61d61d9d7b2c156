"""The resources that a fresh lab's datastore starts with: pools, and a profile for each namespace and service account.

In:    a Topology.   Out: ``projectcalico.org/v3`` documents, applied by calicoctl.   Pure.

Profiles are what Calico makes of Kubernetes namespaces and service accounts (``kns.``, ``ksa.``). A lab on Kubernetes
has those themselves (calico_kernel.lab.cluster).
"""

from __future__ import annotations

from typing import Any

from calico_kernel.lab.topology import Topology


def documents(topology: Topology) -> list[dict[str, Any]]:
    found = [
        _resource(
            "IPPool",
            pool.name,
            {"cidr": pool.cidr, "vxlanMode": pool.vxlan_mode, "natOutgoing": pool.nat_outgoing},
        )
        for pool in topology.pools
    ]
    for namespace in () if topology.datastore == "kubernetes" else topology.namespaces:
        labels = {
            **namespace.labels,
            "kubernetes.io/metadata.name": namespace.name,
            "projectcalico.org/name": namespace.name,
        }
        found.append(
            _resource(
                "Profile",
                f"kns.{namespace.name}",
                {
                    "ingress": [{"action": "Allow"}],
                    "egress": [{"action": "Allow"}],
                    "labelsToApply": {f"pcns.{key}": value for key, value in labels.items()},
                },
            )
        )
        for account, account_labels in namespace.service_accounts.items():
            carried = {**account_labels, "projectcalico.org/name": account}
            found.append(
                _resource(
                    "Profile",
                    f"ksa.{namespace.name}.{account}",
                    {"labelsToApply": {f"pcsa.{key}": value for key, value in carried.items()}},
                )
            )
    return found


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
