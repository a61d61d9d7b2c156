"""Workloads, and the limit each is measured against. ``python -m bench NAME --help``."""
