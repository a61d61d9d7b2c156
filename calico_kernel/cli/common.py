"""What several commands of calicoctl share: refusals, the version check, namespaces, the options that name files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.output import visible
from calico_kernel.cli.session import Failed
from calico_kernel.errors import CalicoError, NotFound

if TYPE_CHECKING:
    import argparse

    from calico_kernel.cli.session import Session


class Refused(Failed):
    """The arguments cannot be followed; says so."""

    def __init__(self, said: str) -> None:
        print(visible(said), file=sys.stderr)
        super().__init__(said)


def initialize(session: Session) -> None:
    """Prepare the datastore; a user who may not do that may still be allowed what was asked for."""
    from calico_kernel.client import ensure_initialized

    client = session.client
    try:
        ensure_initialized(client)
    except CalicoError:
        return


def check_version(args: argparse.Namespace, session: Session) -> None:
    """Refuse a datastore that another version set up, unless told not to mind."""
    from calico_kernel import __version__

    if args.allow_version_mismatch:
        return
    try:
        stored = session.client.get("ClusterInformation", "default").spec.calico_version
    except NotFound:
        return
    theirs, ours = (text.removeprefix("v").partition("-")[0] for text in (stored, __version__))
    if theirs and theirs != ours:
        raise Refused(
            f"version mismatch.\nClient Version:   {__version__}\nCluster Version:  {stored}\n"
            "Use --allow-version-mismatch to override."
        )


def placed(resource: Any, namespace: str) -> Any:
    """The resource in its namespace: its own, else the one of ``-n``, else ``default``."""
    import msgspec

    from calico_kernel.cli.files import FileError
    from calico_kernel.model.kinds import KINDS

    own = resource.metadata.namespace
    if not KINDS[resource.kind].namespaced:
        if own:
            raise FileError(
                "namespace should not be specified for a non-namespaced resource. "
                f"{resource.kind} is not a namespaced resource"
            )
        if namespace:
            raise FileError(f"{resource.kind} is not namespaced")
        return resource
    if own and namespace and own != namespace:
        raise FileError(f"resource namespace does not match client namespace. {own} != {namespace}")
    if own:
        return resource
    metadata = msgspec.structs.replace(resource.metadata, namespace=namespace or "default")
    return msgspec.structs.replace(resource, metadata=metadata)


def add_file_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("-f", "--filename", required=required, help="file, directory, or - for standard input")
    parser.add_argument("-R", "--recursive", action="store_true", help="go into directories below")
    parser.add_argument("--skip-empty", action="store_true", help="do not mind a file without resources")
    parser.add_argument("-n", "--namespace", default="", help="namespace of resources that do not say theirs")
