"""Errors as the CNI specification says them: a number, a message, details."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calico_kernel.errors import CalicoError, IpamError, RevisionConflict

INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
UNDECODABLE = 6
INVALID_CONFIG = 7
INVALID_NETNS = 8
TRY_AGAIN = 11
NOT_AVAILABLE = 50
INTERNAL = 999
# 100 and up are the plugin's own.
REFUSED = 100  # an endpoint observer or a validation refuses this workload
NO_ADDRESS = 101  # no pool, no free address, the address asked for is taken
NETWORKING = 102  # the kernel refused a device, an address or a route
DIFFERS = 103  # CHECK: something is not as ADD left it
DELEGATE = 104  # the IPAM program is missing or misbehaves


class CniError(Exception):
    """What the runtime is told instead of a result."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(f"{msg} ({details})" if details else msg)
        self.code, self.msg, self.details = code, msg, details

    def document(self, version: str) -> Mapping[str, Any]:
        said: dict[str, Any] = {"cniVersion": version, "code": self.code, "msg": self.msg}
        if self.details:
            said["details"] = self.details
        return said


def from_calico(exc: CalicoError, doing: str) -> CniError:
    """The number that makes a runtime do the right thing: repeat what is worth repeating, report the rest."""
    details = f"kept: {exc.kept}; to do: {exc.todo}"
    if exc.retryable or isinstance(exc, RevisionConflict):
        return CniError(TRY_AGAIN, f"try again later: {doing}: {exc.what}", details)
    if isinstance(exc, IpamError):
        return CniError(NO_ADDRESS, f"{doing}: {exc.what}", details)
    return CniError(REFUSED, f"{doing}: {exc.what}", details)
