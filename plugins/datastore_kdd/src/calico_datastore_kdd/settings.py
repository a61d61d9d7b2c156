"""Settings of the Kubernetes datastore, as they stand under ``datastore:`` in the config file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from calico_kernel.errors import ConfigError

if TYPE_CHECKING:
    from calico_datastore_kdd.collection import Group


class KubernetesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cluster. Without any of these: the pod's own service account, else ``KUBECONFIG``, else ``~/.kube/config``.

    kubeconfig:                path of a kubeconfig file (several with colons between, as for kubectl).
    kubeconfig_inline:         its text in place of a path.
    context:                   which of its contexts; default: the current one.
    api_endpoint:              URL of the API server, instead of or over that of the kubeconfig.
    ca_cert_file:              for the server's certificate; the system's when empty.
    cert_file:                 our certificate.
    key_file:                  its key.
    token:                     bearer token.
    token_file:                file with a bearer token, read again as it is rotated.
    insecure_skip_tls_verify:  do not check the server's certificate.
    api_group:                 ``crd.projectcalico.org/v1`` or ``projectcalico.org/v3``; default: what is served.
    use_pod_cidr:              host-local IPAM: a node's blocks are its podCIDRs.
    disable_node_poll:         accepted for Calico's sake; Nodes are watched, never polled.
    qps:                       requests per second that we send at most, on average; 0 for no limit.
    burst:                     requests that may go out at once before ``qps`` holds.
    request_timeout_s:         how long one request may take, the wait for its turn and repetitions included.
    """

    kubeconfig: str = ""
    kubeconfig_inline: str = ""
    context: str = ""
    api_endpoint: str = ""
    ca_cert_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    token: str = ""
    token_file: str = ""
    insecure_skip_tls_verify: bool = False
    api_group: str = ""
    use_pod_cidr: bool = False
    disable_node_poll: bool = False
    qps: Annotated[float, Meta(ge=0)] = 100.0
    burst: Annotated[int, Meta(ge=1)] = 200
    request_timeout_s: Annotated[float, Meta(gt=0)] = 30.0

    def group(self) -> Group | None:
        """None: find out what is served. Raises ConfigError."""
        if not self.api_group:
            return None
        from calico_datastore_kdd.collection import CRD_GROUP, V3_GROUP

        for group in (CRD_GROUP, V3_GROUP):
            if self.api_group.lower() == group:
                return group
        raise ConfigError(
            what=f"datastore.api_group is {self.api_group!r}",
            todo=f"write {CRD_GROUP} or {V3_GROUP}, or leave it out",
        )
