"""What is particular to this store."""

from __future__ import annotations

from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import IPPool, IPPoolSpec


def test_written_record_is_read_and_listed(empty: KubernetesServer) -> None:
    store = KubernetesDatastore(KubernetesSettings(kubeconfig=str(empty.kubeconfig)))
    made = store.create(
        ResourceKey("IPPool", "", "p"), IPPool(metadata=ObjectMeta(name="p"), spec=IPPoolSpec(cidr="10.0.0.0/16"))
    )
    assert store.get(made.key) == made
    assert list(store.list([ResourceQuery("IPPool")]).records) == [made]
    store.close()
