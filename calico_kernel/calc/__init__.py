"""The calculation: datastore events in, NodeState deltas out, incrementally. ``Calculator`` is the whole interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calico_kernel.calc.calculator import Calculator

__all__ = ["Calculator"]


def __getattr__(name: str) -> object:
    """Loaded when asked for: a tool that wants the posting lists alone need not wait for the calculation."""
    if name == "Calculator":
        from calico_kernel.calc.calculator import Calculator

        return Calculator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
