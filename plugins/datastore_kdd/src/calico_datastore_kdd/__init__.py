"""Kubernetes datastore for Calico Kernel: Calico's custom resources, and Pods, Nodes and policies of the cluster."""
