"""What the API server's refusals mean to our callers, in words that name what to change.

In:    ``Refused`` of calico_datastore_kdd.api.   Out: errors of calico_kernel.errors. Pure.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from urllib.parse import parse_qs, unquote, urlsplit

from calico_datastore_kdd.api import Refused
from calico_kernel.errors import (
    DatastoreError,
    DatastoreUnavailable,
    NotFound,
    NotPermitted,
    RevisionTooOld,
    ValidationError,
)
from calico_kernel.model import storing
from calico_kernel.model.keys import Key

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def is_unserved(refused: Refused) -> bool:
    """The collection itself is not there (no such custom resource), rather than one object in it."""
    return refused.code == HTTPStatus.NOT_FOUND and not (refused.status.details or {}).get("name")


def is_too_old(refused: Refused) -> bool:
    return refused.code == HTTPStatus.GONE


def is_too_new(refused: Refused) -> bool:
    """The server has not come to this revision, or never will."""
    return any(cause.get("reason") == "ResourceVersionTooLarge" for cause in refused.causes)


def error_of(refused: Refused, key: Key | None = None, subject: str = "") -> DatastoreError | ValidationError:
    """``key`` or ``subject``: what it was about."""
    about = storing.describe(key) if key is not None else subject
    said, code = refused.status.message, refused.code
    if code == HTTPStatus.UNAUTHORIZED:
        return NotPermitted(
            what=f"the Kubernetes API does not take the credentials of {refused.user} ({said})",
            todo="renew them, or check datastore.kubeconfig, token_file and cert_file",
        )
    if code == HTTPStatus.FORBIDDEN:
        return _forbidden(refused, about)
    if is_too_old(refused):
        return RevisionTooOld(what=f"{about}: {said}", todo="list again and watch from there")
    if is_too_new(refused):
        return RevisionTooOld(
            what=f"{about}: the Kubernetes API has not come to this revision ({said}), as when a backup was restored",
            todo="list again and watch from there",
            other_history=True,
        )
    if is_unserved(refused):
        return not_installed(refused)
    if code == HTTPStatus.NOT_FOUND:
        return NotFound(what=f"{about}: {said}", todo="create what it needs first")
    # A 400 without a reason is not the API's, but of what serves TLS or stands before it.
    wrong = code == HTTPStatus.UNPROCESSABLE_ENTITY or (code == HTTPStatus.BAD_REQUEST and refused.status.reason)
    if wrong and about:
        return ValidationError(about, _problems(refused))
    if code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or "request is too large" in said:
        return DatastoreError(what=f"{about} is too large for etcd ({said})", todo="split it into several resources")
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code == HTTPStatus.TOO_MANY_REQUESTS:
        return DatastoreUnavailable(
            what=f"the Kubernetes API answers {code} to {refused.method} {_path(refused)}: {said}",
            kept="nothing was written" if refused.method == "GET" else "the write may have happened: read it again",
            todo="look at the API server's log; the call may be repeated",
        )
    return DatastoreError(
        what=f"{about}: the Kubernetes API answers {code} to {refused.method} {_path(refused)}: {said}",
        todo="look at the API server's log",
    )


def not_installed(refused: Refused) -> DatastoreUnavailable:
    return DatastoreUnavailable(
        what=f"the cluster has no {_path(refused)}: Calico's custom resources are not installed",
        todo="install them: calicoctl crds | kubectl apply --server-side -f -",
    )


def _forbidden(refused: Refused, about: str) -> NotPermitted:
    said = refused.status.message
    if "cannot" not in said:  # not RBAC: an admission plugin, a namespace that is being deleted
        return NotPermitted(what=f"the Kubernetes API refuses {about}: {said}", todo="do what it says")
    return NotPermitted(
        what=f"the Kubernetes API does not permit it: {said}",
        todo=f"give {refused.user} a ClusterRole with the rule {json.dumps(rule(refused))}",
    )


def rule(refused: Refused) -> dict[str, list[str]]:
    """What RBAC must allow for the request."""
    parts = _path(refused).strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    verb = _VERBS[refused.method]
    if verb == "get" and len(rest) == 1:
        verb = "watch" if "watch" in parse_qs(urlsplit(refused.target).query) else "list"
    resource = f"{rest[0]}/{rest[2]}" if len(rest) > 2 else rest[0]
    return {"apiGroups": [group], "resources": [resource], "verbs": [verb]}


def _path(refused: Refused) -> str:
    return unquote(urlsplit(refused.target).path)


def _problems(refused: Refused) -> list[tuple[str, str]]:
    found = [(str(cause.get("field") or ""), str(cause.get("message") or "")) for cause in refused.causes]
    return [pair for pair in found if pair[1]] or [("", refused.status.message)]
