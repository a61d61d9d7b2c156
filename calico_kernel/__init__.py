"""Calico Kernel: hooks, model, policy meaning and calculation; every capability is a plugin.

Read it in the order in which a policy travels: ``model`` (what is stored) -> ``selector`` and ``policy`` (what it
means) -> ``calc`` (what this node must do) -> ``agent`` (who gets told) -> a plugin under ``plugins/`` (how it is
done).
"""

__version__ = "0.1.0"
