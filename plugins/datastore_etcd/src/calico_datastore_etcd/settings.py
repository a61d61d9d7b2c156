"""Settings of the etcd datastore, as they stand under ``datastore:`` in the config file, and Calico's variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from calico_kernel.errors import ConfigError

DEFAULT_ENDPOINT = "http://127.0.0.1:2379"


class EtcdSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One etcd cluster. What is not set here is taken from Calico's variables, named below.

    endpoints:          URLs of the members, comma-separated; the next one serves when one fails (``ETCD_ENDPOINTS``).
                        Default: ``http://127.0.0.1:2379``.
    discovery_srv:      a domain whose DNS records name the members, in place of ``endpoints``
                        (``ETCD_DISCOVERY_SRV``): SRV records ``_etcd-client-ssl._tcp`` (https) and
                        ``_etcd-client._tcp`` (http). They are looked up again when a member fails.
    ca_cert_file:       for the members' certificates; the system's when empty (``ETCD_CA_CERT_FILE``).
    cert_file:          our certificate, for members that ask for one (``ETCD_CERT_FILE``).
    key_file:           its key (``ETCD_KEY_FILE``). The three files are read again whenever a connection is refused.
    ca_cert:            PEM text in place of ``ca_cert_file``.
    cert:               PEM text in place of ``cert_file``.
    key:                PEM text in place of ``key_file``.
    username:           a user of etcd (``ETCD_USERNAME``).
    password:           its password (``ETCD_PASSWORD``); the token it gives is renewed when it ends.
    variables:          whether Calico's variables complete these settings; off where a ``CalicoAPIConfig`` gave them.
    dial_timeout_s:     how long a call keeps trying to reach any member before it says "unavailable".
    request_timeout_s:  how long one request may take once it was sent.
    """

    endpoints: str = ""
    discovery_srv: str = ""
    ca_cert_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    ca_cert: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password: str = ""
    variables: bool = True
    dial_timeout_s: Annotated[float, Meta(gt=0)] = 2.0
    request_timeout_s: Annotated[float, Meta(gt=0)] = 10.0

    def addresses(self) -> list[tuple[bool, str]]:
        """(TLS?, host:port) of each endpoint; none where DNS tells them. Raises ConfigError naming the one that is
        wrong."""
        found: list[tuple[bool, str]] = []
        if self.discovery_srv:
            return found
        for url in (self.endpoints or DEFAULT_ENDPOINT).split(","):
            scheme, separator, address = url.strip().rstrip("/").partition("://")
            host, colon, port = address.rpartition(":")
            if scheme not in ("http", "https") or not separator or not host or not colon or not port.isdecimal():
                raise ConfigError(
                    what=f"datastore.endpoints: {url.strip()!r} is no URL of an etcd member",
                    todo="write http://HOST:PORT or https://HOST:PORT, several with commas between",
                )
            found.append((scheme == "https", address))
        return found


_VARIABLES = {
    "endpoints": "ETCD_ENDPOINTS",
    "discovery_srv": "ETCD_DISCOVERY_SRV",
    "ca_cert_file": "ETCD_CA_CERT_FILE",
    "cert_file": "ETCD_CERT_FILE",
    "key_file": "ETCD_KEY_FILE",
    "username": "ETCD_USERNAME",
    "password": "ETCD_PASSWORD",
}


def with_variables(settings: EtcdSettings, environment: Mapping[str, str]) -> EtcdSettings:
    """``settings``, completed by Calico's ``ETCD_*`` variables, checked. Raises ConfigError naming the key."""
    if settings.variables:
        located = bool(settings.endpoints or settings.discovery_srv)  # by one; the variable of the other does not count
        settings = replace(
            settings,
            **{
                name: environment[variable]
                for name, variable in _VARIABLES.items()
                if not getattr(settings, name)
                and environment.get(variable)
                and not (located and name in ("endpoints", "discovery_srv"))
            },
        )
    if settings.endpoints and settings.discovery_srv:
        raise ConfigError(
            what="datastore.endpoints and datastore.discovery_srv (or their variables) are both set",
            todo="write the members, or the domain whose DNS records name them",
        )
    secure = [tls for tls, _ in settings.addresses()]
    given = [name for name in ("ca_cert_file", "cert_file", "key_file") if getattr(settings, name)]
    texts = [name for name in ("ca_cert", "cert", "key") if getattr(settings, name)]
    if given and texts:
        raise ConfigError(
            what=f"datastore.{given[0]} and datastore.{texts[0]} are both set", todo="give files or texts, not both"
        )
    if bool(settings.cert) != bool(settings.key):
        raise ConfigError(what="datastore.cert and datastore.key belong together", todo="set both or neither")
    if (given or texts) and secure and not any(secure):
        raise ConfigError(
            what=f"datastore.{(given or texts)[0]} is set, but every endpoint is http://",
            todo="write https:// endpoints",
        )
    if bool(settings.cert_file) != bool(settings.key_file):
        raise ConfigError(what="datastore.cert_file and datastore.key_file belong together", todo="set both or neither")
    if settings.password and not settings.username:
        raise ConfigError(what="datastore.password is set without datastore.username", todo="set both or neither")
    for name in given:
        path = getattr(settings, name)
        try:
            with open(path, "rb"):
                pass
        except OSError as exc:
            raise ConfigError(
                what=f"datastore.{name}: {path} cannot be read: {exc.strerror}", todo="correct the path or its mode"
            ) from exc
    return settings
