"""VXLAN and unencapsulated cluster routes for Calico Kernel."""
