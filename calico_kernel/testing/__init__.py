"""For the kernel's tests and every plugin's: contract kits, in-memory implementations, the bubble, packet probes."""
