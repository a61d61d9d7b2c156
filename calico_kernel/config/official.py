"""The configuration of Calico's own tools: a ``CalicoAPIConfig`` file, or the environment variables of the same names.

In:    the located tree of such a file, or the process environment.
Out:   the word and the settings of a datastore plugin, to ``calico_kernel.config.reading``.

Rules and names are those of Calico's ``apiconfig`` package: the file replaces the variables altogether; of
``CALICO_ETCD_ENDPOINTS`` and ``ETCD_ENDPOINTS`` the first wins, even when it is empty.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from calico_kernel.config.source import Located, Origin, did_you_mean
from calico_kernel.errors import ConfigError

API_VERSION = "projectcalico.org/v3"
KIND = "CalicoAPIConfig"

# spec field -> (variable or "", setting of the plugin, type)
_ETCD: Mapping[str, tuple[str, str, type]] = {
    "etcdEndpoints": ("ETCD_ENDPOINTS", "endpoints", str),
    "etcdDiscoverySrv": ("ETCD_DISCOVERY_SRV", "discovery_srv", str),
    "etcdUsername": ("ETCD_USERNAME", "username", str),
    "etcdPassword": ("ETCD_PASSWORD", "password", str),
    "etcdKeyFile": ("ETCD_KEY_FILE", "key_file", str),
    "etcdCertFile": ("ETCD_CERT_FILE", "cert_file", str),
    "etcdCACertFile": ("ETCD_CA_CERT_FILE", "ca_cert_file", str),
    "etcdKey": ("", "key", str),
    "etcdCert": ("", "cert", str),
    "etcdCACert": ("", "ca_cert", str),
}
_KUBERNETES: Mapping[str, tuple[str, str, type]] = {
    "kubeconfig": ("KUBECONFIG", "kubeconfig", str),
    "kubeconfigInline": ("", "kubeconfig_inline", str),
    "k8sAPIEndpoint": ("K8S_API_ENDPOINT", "api_endpoint", str),
    "k8sKeyFile": ("K8S_KEY_FILE", "key_file", str),
    "k8sCertFile": ("K8S_CERT_FILE", "cert_file", str),
    "k8sCAFile": ("K8S_CA_FILE", "ca_cert_file", str),
    "k8sAPIToken": ("", "token", str),
    "k8sInsecureSkipTLSVerify": ("K8S_INSECURE_SKIP_TLS_VERIFY", "insecure_skip_tls_verify", bool),
    "k8sDisableNodePoll": ("K8S_DISABLE_NODE_POLL", "disable_node_poll", bool),
    "usePodCIDR": ("USE_POD_CIDR", "use_pod_cidr", bool),
    "k8sClientQPS": ("K8S_CLIENT_QPS", "qps", float),
    "k8sClientBurst": ("K8S_CLIENT_BURST", "burst", int),
    "k8sCurrentContext": ("K8S_CURRENT_CONTEXT", "context", str),
    "calicoAPIGroup": ("CALICO_API_GROUP", "api_group", str),
}
_TYPE = {"datastoreType": ("DATASTORE_TYPE", "", str)}
_FIELDS: Mapping[str, tuple[str, str, type]] = {**_TYPE, **_ETCD, **_KUBERNETES}
_WORDS = {"etcdv3": "etcd", "kubernetes": "kdd"}
_SECRET = ("Password", "Token", "Inline", "etcdKey")
VARIABLES = frozenset(f"CALICO_{variable}" for variable, _, _ in _FIELDS.values() if variable) | {"CALICO_API_GROUP"}
"""Calico's names that look like ours."""

Datastore = tuple[str, Located, Origin]
"""The plugin's word, its settings, and what chose it."""


def is_official(tree: Located | None) -> bool:
    return tree is not None and isinstance(tree.value, dict) and bool({"kind", "apiVersion"} & tree.value.keys())


def from_file(tree: Located, environment: Mapping[str, str]) -> Datastore:
    """Raises ConfigError with file and line for everything that Calico refuses, and for what no plugin of ours takes.
    ``environment`` gives no setting, only ``HOME``."""
    _known(tree, ("apiVersion", "kind", "metadata", "spec"), "")
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        found = tree.value.get(key, Located("", tree.origin))
        if found.value != wanted:
            raise ConfigError(what=f"{found.origin}: {key} is {found.plain()!r}", todo=f"write `{key}: {wanted}`")
    spec = tree.value.get("spec", Located({}, tree.origin))
    if spec.value is None:
        spec = Located({}, spec.origin)
    _known(spec, tuple(_FIELDS), "spec.")
    given = {}
    for name, item in spec.value.items():
        if item.value is None:
            continue
        wanted_type = _FIELDS[name][2]
        accepted = (int, float) if wanted_type is float else (wanted_type,)
        if not isinstance(item.value, accepted) or (wanted_type is not bool and isinstance(item.value, bool)):
            shown = "a value of another type" if _secret(name) else repr(item.plain())
            raise ConfigError(
                what=f"{item.origin}: spec.{name} is {shown}", todo=f"give a value of type {wanted_type.__name__}"
            )
        if item.value not in ("", 0):
            given[name] = item
    return _datastore(given, spec.origin, environment)


def from_environment(environment: Mapping[str, str]) -> Datastore | None:
    """None when none of the variables that name a datastore is set."""
    given = {}
    for name, (variable, _, _) in _FIELDS.items():
        if not variable:
            continue
        used = next((v for v in (f"CALICO_{variable}", variable) if v in environment), "")
        if used and environment[used]:
            given[name] = Located(environment[used], Origin("environment", used))
    chose = next((given[name] for name in _CHOOSING if name in given), None)
    return _datastore(given, chose.origin, environment) if chose is not None else None


_CHOOSING = ("datastoreType", "etcdEndpoints", "etcdDiscoverySrv", "k8sAPIEndpoint", "kubeconfig")


def _datastore(given: Mapping[str, Located], origin: Origin, environment: Mapping[str, str]) -> Datastore:
    chosen = given.get("datastoreType")
    if chosen is None:
        implied = given.get("etcdEndpoints") or given.get("etcdDiscoverySrv")
        named = "etcdv3" if implied is not None else "kubernetes"
        origin = implied.origin if implied is not None else origin
    else:
        named, origin = chosen.value, chosen.origin
    if named not in _WORDS:
        raise ConfigError(
            what=f"{origin}: datastoreType is {named!r}{did_you_mean(named, _WORDS)}", todo="write etcdv3 or kubernetes"
        )
    settings = _etcd(given, origin) if named == "etcdv3" else _kubernetes(given, origin, environment)
    return _WORDS[named], Located(settings, origin), origin


def _etcd(given: Mapping[str, Located], origin: Origin) -> dict[str, Located]:
    both = [name for name in ("etcdEndpoints", "etcdDiscoverySrv") if name in given]
    if len(both) == 2:
        raise ConfigError(
            what=f"{given[both[1]].origin}: etcdEndpoints and etcdDiscoverySrv are both given",
            todo="use either etcdEndpoints or etcdDiscoverySrv",
        )
    if not both:
        raise ConfigError(
            what=f"{origin}: no etcd endpoints specified", todo="set etcdEndpoints (ETCD_ENDPOINTS) or etcdDiscoverySrv"
        )
    inline = [name for name in ("etcdKey", "etcdCert", "etcdCACert") if name in given]
    if inline and any(name in given for name in ("etcdKeyFile", "etcdCertFile", "etcdCACertFile")):
        raise ConfigError(
            what=f"{given[inline[0]].origin}: certificates are given both as text and as files",
            todo="use either etcdKey, etcdCert and etcdCACert, or the three fields whose names end in File",
        )
    settings = {setting: given[name] for name, (_, setting, _) in _ETCD.items() if name in given}
    if not {"etcdUsername", "etcdPassword"} <= given.keys():  # one alone counts as neither
        settings.pop("username", None)
        settings.pop("password", None)
    return {**settings, "variables": Located(False, origin)}


def _kubernetes(given: Mapping[str, Located], origin: Origin, environment: Mapping[str, str]) -> dict[str, Located]:
    settings = {setting: given[name] for name, (_, setting, _) in _KUBERNETES.items() if name in given}
    home = environment.get("HOME", "")
    if home and not {"kubeconfig", "api_endpoint", "kubeconfig_inline"} & settings.keys():
        usual = os.path.join(home, ".kube", "config")
        if os.path.exists(usual):
            settings["kubeconfig"] = Located(usual, origin)
    return settings


def _known(given: Located, known: tuple[str, ...], above: str) -> None:
    if not isinstance(given.value, dict):
        raise ConfigError(
            what=f"{given.origin}: {above.rstrip('.') or KIND} must be a mapping, found {type(given.value).__name__}",
            todo=f"write the fields of a {KIND}",
        )
    value: dict[str, Any] = given.value
    for name, item in value.items():
        if name not in known:
            raise ConfigError(
                what=f"{item.origin}: unknown field {above}{name}{did_you_mean(name, known)}",
                todo=f"use one of: {', '.join(known)}",
            )


def _secret(name: str) -> bool:
    return name.endswith(_SECRET)
