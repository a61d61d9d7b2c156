"""Embedded datastore for Calico Kernel: one SQLite file, watched across processes."""
