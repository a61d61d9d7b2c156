"""Where the API server is, how to be sure that it is the one, and as whom to speak to it.

In:    the settings; kubeconfig files; the service account of a pod.
Out:   an ``Access`` for calico_datastore_kdd.api: address, TLS context, and headers of a request.
Owns:  what it read of tokens and certificates, for as long as their files stay the same: each file is looked at (one
       ``stat``) before it is used, since tokens of service accounts and certificates are replaced while we run.

Only users of ``exec`` and ``auth-provider`` entries import the official ``kubernetes`` package, which takes most of a
second.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct, field

from calico_datastore_kdd import kubeconfig
from calico_datastore_kdd.settings import KubernetesSettings
from calico_kernel.errors import ConfigError, DatastoreUnavailable

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
HTTPS_PORT, HTTP_PORT = 443, 80

Mark = tuple[int, int, int]


class Material(Struct):
    """A credential: text, or a file that may be replaced at any time. ``name`` is for messages."""

    name: str
    path: str = ""
    data: bytes = b""
    _mark: Mark | None = None

    def mark(self) -> Mark | None:
        """Another one when the file was replaced or rewritten; None for text, and while the file is away."""
        if not self.path:
            return None
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> bytes:
        """Raises DatastoreUnavailable, since a file that is being replaced may be away for a moment."""
        if not self.path:
            return self.data
        mark = self.mark()
        if mark is None or mark != self._mark:
            try:
                with open(self.path, "rb") as file:
                    self.data = file.read()
            except OSError as exc:
                raise DatastoreUnavailable(
                    what=f"{self.name} {self.path} cannot be read: {exc.strerror}",
                    todo="correct its path or its mode",
                ) from exc
            self._mark = mark
        return self.data


class PluginCredentials(Struct, eq=False):
    """What an ``exec`` or ``auth-provider`` entry yields, through the official package, which renews it when it
    expires."""

    paths: str
    inline: str
    context: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _configuration: Any = None

    def authorization(self) -> str:
        with self._lock:
            configuration = self._loaded()
            found = configuration.auth_settings().get("BearerToken")
            return str(found["value"]) if found else ""

    def certificate(self) -> tuple[Material, Material] | None:
        with self._lock:
            configuration = self._loaded()
        if not configuration.cert_file:
            return None
        return (
            Material("the plugin's certificate", configuration.cert_file),
            Material("the plugin's key", configuration.key_file or configuration.cert_file),
        )

    def renew(self) -> None:
        with self._lock:
            self._configuration = None

    def _loaded(self) -> Any:
        if self._configuration is not None:
            return self._configuration
        from kubernetes import client
        from kubernetes import config as kubernetes_config

        config: Any = kubernetes_config  # it has no types

        configuration = client.Configuration()
        context = self.context or None
        reason = "its log says why"  # of a failed exec entry the package only writes to the log
        try:
            if self.inline:
                document = kubeconfig.parse(self.inline, "kubeconfig_inline")
                config.load_kube_config_from_dict(dict(document), context, configuration, persist_config=False)
            else:
                config.load_kube_config(self.paths, context, configuration)
        except (config.ConfigException, OSError, KeyError, ValueError) as exc:
            reason = str(exc)
        if not configuration.auth_settings() and not configuration.cert_file:
            raise DatastoreUnavailable(
                what=f"the credential plugin of the kubeconfig gave no credentials: {reason}",
                todo="run the command of its exec entry by hand, or log in with its tool",
            )
        self._configuration = configuration
        return configuration


class Access(Struct, eq=False, kw_only=True):
    """One API server, and one identity. Thread-safe.

    prefix:       path under which the API is served, "" mostly.
    server_name:  what the server's certificate must say; the host when empty.
    proxy:        (host, port, its own authorization header) of an HTTP proxy.
    who:          the identity, for messages.
    """

    secure: bool
    host: str
    port: int
    prefix: str = ""
    server_name: str = ""
    insecure: bool = False
    proxy: tuple[str, int, str] | None = None
    who: str = ""
    ca: Material | None = None
    certificate: tuple[Material, Material] | None = None
    token: Material | None = None
    plugin: PluginCredentials | None = None
    headers: Sequence[tuple[str, str]] = ()
    _context: ssl.SSLContext | None = None
    _made_of: Sequence[object] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.prefix}"

    def authorization(self) -> str:
        """The value of the header; "" for none."""
        if self.token is not None:
            token = self.token.read().decode("latin-1").strip()
            if not token or not token.isprintable():
                raise DatastoreUnavailable(
                    what=f"{self.token.name} {self.token.path} holds no token", todo="put one there"
                )
            return f"Bearer {token}"
        return self.plugin.authorization() if self.plugin is not None else ""

    def renew(self) -> None:
        """The server refused the credentials: the next use asks for new ones, as far as they can be asked for."""
        if self.plugin is not None:
            self.plugin.renew()
        with self._lock:
            self._context = None

    def context(self) -> ssl.SSLContext | None:
        """What connections are to be made with now; the same object as long as nothing was replaced. None for plain
        HTTP."""
        if not self.secure:
            return None
        with self._lock:
            pair = self.certificate
            if pair is None and self.plugin is not None:
                pair = self.plugin.certificate()
            parts = [material for material in (self.ca, *(pair or ())) if material is not None]
            made_of = [(material.path or material.data, material.mark()) for material in parts]
            if self._context is None or made_of != self._made_of:
                try:
                    self._context = self._make_context(pair)
                except DatastoreUnavailable:
                    if self._context is None:
                        raise
                    return self._context  # half replaced, perhaps: the old one is good until the server refuses it
                self._made_of = made_of
            return self._context

    def _make_context(self, pair: tuple[Material, Material] | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # As Go does: a certificate that is trusted by itself needs no authority above it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(cadata=self.ca.read().decode("ascii", "ignore"))
            except ssl.SSLError as exc:
                raise DatastoreUnavailable(
                    what=f"{self.ca.name} {self.ca.path} holds no certificate: {exc}",
                    todo="correct datastore.ca_cert_file or the kubeconfig's certificate-authority",
                ) from exc
        if pair is not None:
            _load_pair(context, *pair)
        return context


def _load_pair(context: ssl.SSLContext, certificate: Material, key: Material) -> None:
    """OpenSSL takes them from files only."""
    try:
        if certificate.path and key.path:
            context.load_cert_chain(certificate.path, key.path)
            return
        import tempfile

        with tempfile.NamedTemporaryFile(prefix="calico-") as file:  # readable to us only, and gone at once
            file.write(certificate.read() + b"\n" + key.read())
            file.flush()
            context.load_cert_chain(file.name)
    except OSError as exc:  # ssl.SSLError is one
        raise DatastoreUnavailable(
            what=f"{certificate.name} {certificate.path} and {key.name} {key.path} cannot be used: {exc}",
            todo="correct them; while they are being replaced this passes",
        ) from exc


# ── finding out ───────────────────────────────────────────────────────────────────────────────────────────────────────


def find(
    settings: KubernetesSettings, environment: Mapping[str, str], *, service_account: Path = SERVICE_ACCOUNT
) -> Access:
    """What the settings say; for what they do not say, the pod's service account, else a kubeconfig.
    Raises ConfigError, naming the key."""
    paths = settings.kubeconfig
    in_pod = (service_account / "token").exists() and bool(environment.get("KUBERNETES_SERVICE_HOST"))
    if not paths and not settings.kubeconfig_inline:
        if in_pod:
            return _of_pod(settings, environment, service_account)
        paths = environment.get("KUBECONFIG", "")
        if not paths and not settings.api_endpoint:
            paths = os.path.join(environment.get("HOME", ""), ".kube", "config")
            if not os.path.exists(paths):
                raise ConfigError(
                    what="nothing says where the Kubernetes API is: no datastore.kubeconfig, no service account of a "
                    f"pod, no KUBECONFIG, no {paths}",
                    todo="set datastore.kubeconfig (KUBECONFIG) or datastore.api_endpoint (K8S_API_ENDPOINT)",
                )
    if not paths and not settings.kubeconfig_inline:
        return _access(settings, environment, {}, {}, "anonymous")
    chosen = kubeconfig.choose(paths, settings.kubeconfig_inline, settings.context)
    access = _access(settings, environment, chosen.cluster, chosen.user, f"user {chosen.user_name!r} of the kubeconfig")
    if access.token is None and access.certificate is None and {"exec", "auth-provider"} & chosen.user.keys():
        access.plugin = PluginCredentials(paths, settings.kubeconfig_inline, settings.context)
    return access


def _of_pod(settings: KubernetesSettings, environment: Mapping[str, str], service_account: Path) -> Access:
    host = environment["KUBERNETES_SERVICE_HOST"]
    port = environment.get("KUBERNETES_SERVICE_PORT") or str(HTTPS_PORT)
    cluster = {
        "server": f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        "certificate-authority": str(service_account / "ca.crt"),
    }
    user = {"tokenFile": str(service_account / "token")}
    return _access(settings, environment, cluster, user, "the pod's service account")


def _access(
    settings: KubernetesSettings,
    environment: Mapping[str, str],
    cluster: Mapping[str, Any],
    user: Mapping[str, Any],
    who: str,
) -> Access:
    ours = bool(settings.token or settings.token_file or settings.cert_file or settings.key_file)
    if ours:  # credentials that the settings give replace those of the kubeconfig altogether
        user, who = {}, "the user of the settings"
    secure, host, port, prefix = _address(settings.api_endpoint or str(cluster.get("server") or ""))
    insecure = settings.insecure_skip_tls_verify or bool(cluster.get("insecure-skip-tls-verify"))
    ca = _material("datastore.ca_cert_file", settings.ca_cert_file) or _material(
        "certificate-authority",
        str(cluster.get("certificate-authority") or ""),
        cluster.get("certificate-authority-data"),
    )
    certificate = _pair(
        _material("datastore.cert_file", settings.cert_file)
        or _material(
            "client-certificate", str(user.get("client-certificate") or ""), user.get("client-certificate-data")
        ),
        _material("datastore.key_file", settings.key_file)
        or _material("client-key", str(user.get("client-key") or ""), user.get("client-key-data")),
    )
    token = _token(settings, user)
    if not secure and (token is not None or user.keys() & {"exec", "auth-provider"}) and host not in LOOPBACK:
        raise ConfigError(
            what=f"the API server http://{host}:{port} would get a token in clear text",
            todo="use https in datastore.api_endpoint or the kubeconfig's server",
        )
    if user.get("username"):
        raise ConfigError(
            what=f"{who} has a user name and password, which Kubernetes no longer takes", todo="use a token"
        )
    return Access(
        secure=secure,
        host=host,
        port=port,
        prefix=prefix,
        server_name=str(cluster.get("tls-server-name") or ""),
        insecure=insecure,
        proxy=_proxy(str(cluster.get("proxy-url") or ""), environment, host, port, secure=secure),
        who=who,
        ca=ca,
        certificate=certificate,
        token=token,
        headers=_impersonation(user),
    )


def _address(server: str) -> tuple[bool, str, int, str]:
    """(https?, host, port, path) of ``https://10.0.0.1:6443``, ``10.0.0.1:6443``..."""
    try:
        parts = urlsplit(server if "://" in server else f"https://{server}")
        secure = parts.scheme == "https"
        port = parts.port or (HTTPS_PORT if secure else HTTP_PORT)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("https", "http") or parts.username or parts.query:
        raise ConfigError(
            what=f"{server!r} is no URL of an API server",
            todo="write https://HOST:PORT in datastore.api_endpoint or the kubeconfig's server",
        )
    return secure, host, port, parts.path.rstrip("/")


def _material(name: str, path: str, data: object = None) -> Material | None:
    """As kubectl: data wins over a file."""
    if data:
        try:
            return Material(name, data=base64.b64decode(str(data), validate=True))
        except (binascii.Error, ValueError) as exc:
            raise ConfigError(what=f"{name}-data is not base64: {exc}", todo="correct the kubeconfig") from exc
    return Material(name, path) if path else None


def _pair(certificate: Material | None, key: Material | None) -> tuple[Material, Material] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError(
            what="only one of our certificate and its key is given",
            todo="give both: datastore.cert_file and key_file, or client-certificate and client-key of the kubeconfig",
        )
    return certificate, key


def _token(settings: KubernetesSettings, user: Mapping[str, Any]) -> Material | None:
    if settings.token_file:
        return Material("datastore.token_file", settings.token_file)
    if settings.token:
        return Material("datastore.token", data=settings.token.encode())
    if user.get("tokenFile"):
        return Material("tokenFile", str(user["tokenFile"]))
    return Material("token", data=str(user["token"]).encode()) if user.get("token") else None


def _impersonation(user: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation"""
    found = [("Impersonate-User", user.get("as")), ("Impersonate-Uid", user.get("as-uid"))]
    found += [("Impersonate-Group", group) for group in user.get("as-groups") or ()]
    for name, values in (user.get("as-user-extra") or {}).items():
        found += [(f"Impersonate-Extra-{quote(name, safe='')}", value) for value in values]
    return tuple((name, str(value)) for name, value in found if value)


def _proxy(
    given: str, environment: Mapping[str, str], host: str, port: int, *, secure: bool
) -> tuple[str, int, str] | None:
    """The kubeconfig's proxy, else the one of HTTPS_PROXY unless NO_PROXY has the host, as Go's programs do."""
    url = given
    if not url and secure and host not in LOOPBACK:
        url = environment.get("HTTPS_PROXY") or environment.get("https_proxy") or ""
        if url:
            from urllib import request

            bypass: Any = getattr(request, "proxy_bypass_environment")  # noqa: B009  # typeshed lacks it
            excluded = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
            if _in_networks(host, excluded) or bypass(f"{host}:{port}", {"no": excluded}):
                return None
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(
            what=f"the proxy {parts.scheme}://{parts.hostname or ''} is none that can be used here",
            todo="give an HTTP proxy (http://HOST:PORT) in proxy-url or HTTPS_PROXY, or put the server into NO_PROXY",
        )
    if not secure:
        raise ConfigError(what="a proxy is given for an API server without TLS", todo="use https, or no proxy")
    login = ""
    if parts.username:
        plain = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = f"Basic {base64.b64encode(plain.encode()).decode()}"
    return parts.hostname, parts.port or HTTP_PORT, login


def _in_networks(host: str, excluded: str) -> bool:
    """NO_PROXY may hold networks, as is usual for clusters."""
    from ipaddress import ip_address, ip_network

    try:
        address = ip_address(host)
    except ValueError:
        return False
    for word in excluded.split(","):
        try:
            if address in ip_network(word.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False
