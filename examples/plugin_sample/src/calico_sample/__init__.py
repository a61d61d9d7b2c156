"""Sample plugin for Calico Kernel: every workload has an owner."""
