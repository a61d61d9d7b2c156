"""CNI plugin for Calico Kernel: a tiny executable and the service behind it in the node agent."""
