"""pytest plugin: the whole test run happens in a bubble (see ``calico_kernel.host.bubble``).

Tests are root in a private world, so they can use iptables, devices and namespaces without touching the machine, and a
killed run leaves nothing behind. ``--no-bubble`` runs in place; tests marked ``node`` are then skipped.

Fixture ``netns``: a fresh network namespace that the test's thread lives in, so that workers in parallel do not meet.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator

import pytest

from calico_kernel.host import bubble, netns

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-bubble", action="store_true", help="run in this machine's own namespaces")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if not (bubble.inside() or config.getoption("--no-bubble") or os.environ.get("PYTEST_XDIST_WORKER")):
        bubble.enter([sys.executable, "-m", "pytest", *config.invocation_params.args])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if bubble.inside():
        return
    for item in items:
        if item.get_closest_marker("node"):
            item.add_marker(pytest.mark.skip(reason="needs the bubble, and --no-bubble was given"))


@pytest.fixture
def netns_name() -> str:
    """A name for a namespace that no other test of this run uses."""
    return f"t{os.getpid()}-{next(_numbers)}"


@pytest.fixture(name="netns")
def _netns(netns_name: str) -> Iterator[str]:
    """Live in a fresh network namespace, loopback up, for this test; yields its name."""
    netns.create(netns_name)
    try:
        with netns.entered(netns_name):
            bubble.loopback_up()
            yield netns_name
    finally:
        netns.delete(netns_name)
