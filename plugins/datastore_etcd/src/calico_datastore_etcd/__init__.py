"""etcd datastore for Calico Kernel: the keys and values that Calico keeps there."""
