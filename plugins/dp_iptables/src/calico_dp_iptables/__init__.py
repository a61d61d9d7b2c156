"""Policy enforcement for Calico Kernel with iptables and ipset."""
