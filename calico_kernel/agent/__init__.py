"""The resident agent of one node: ``calico node``.

    datastore ──► feed ──► loop (calc) ──► worker: dataplane ──► programmed ──► CNI waits, observers
                                     ├──► worker: encapsulation (each)
                                     └──► worker: routing (each)
    local_socket ◄── CNI executable, calicoctl      health ◄── kubelet, Prometheus

Each worker has a thread and a mailbox of its own: a slow or failing plugin delays nobody else. Nothing is written to
the host before the feed is in sync.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calico_kernel.config import Config


def main(config: Config) -> int:
    """Run the agent of this node until SIGTERM or SIGINT; returns the exit status. Enforcement stays in place."""
    from calico_kernel.agent.node import run

    return run(config)


def uninstall(config: Config) -> int:
    """Remove everything that the configured drivers put on this host (``calico node uninstall``)."""
    from calico_kernel.agent.node import uninstall as remove

    return remove(config)
