"""Sweeps over the hook page: every hook is documented, every capability has a kit and an in-memory implementation."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from calico_kernel import hookspecs

CAPABILITIES = ("datastore", "ipam", "dataplane", "encapsulation", "routing")
HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if name.startswith("calico_") and hasattr(function, "calico_spec")
}


def test_the_page_has_the_five_capabilities_and_the_extensions() -> None:
    assert {f"calico_{name}" for name in CAPABILITIES} < HOOKS.keys()
    assert len(HOOKS) >= 14


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_every_hook_states_its_contract(name: str) -> None:
    assert len(inspect.getdoc(HOOKS[name]) or "") > 30


@pytest.mark.parametrize("name", CAPABILITIES)
def test_every_capability_has_a_kit_and_an_in_memory_implementation(name: str) -> None:
    kit = import_module(f"calico_kernel.testing.{name}")
    memory = import_module(f"calico_kernel.testing.memory_{name}")
    contract = getattr(kit, f"{name.capitalize()}Contract")
    tests = [attribute for attribute in dir(contract) if attribute.startswith("test_")]
    assert len(tests) >= 7
    assert inspect.getdoc(memory)


def test_the_page_reads_in_one_sitting() -> None:
    assert len(inspect.getsource(hookspecs).splitlines()) < 600


def test_every_abstract_method_says_what_it_promises() -> None:
    classes = [c for c in vars(hookspecs).values() if inspect.isclass(c) and c.__module__ == hookspecs.__name__]
    silent = [
        f"{c.__name__}.{name}"
        for c in classes
        for name in getattr(c, "__abstractmethods__", ())
        if not inspect.getdoc(getattr(c, name))
    ]
    assert silent == []
