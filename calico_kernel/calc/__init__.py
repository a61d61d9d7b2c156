"""The calculation: datastore events in, NodeState deltas out, incrementally. ``Calculator`` is the whole interface."""

from __future__ import annotations

from calico_kernel.calc.calculator import Calculator

__all__ = ["Calculator"]
