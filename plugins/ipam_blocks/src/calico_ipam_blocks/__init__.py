"""Calico's block IPAM on any datastore plugin of Calico Kernel."""
