"""The resident agent of one node: ``calico node``.

    datastore ──► feed ──► loop (calc) ──► worker: dataplane ──► programmed ──► CNI waits, observers
                                     ├──► worker: encapsulation (each)
                                     └──► worker: routing (each)
    local_socket ◄── CNI executable, calicoctl      health ◄── kubelet, Prometheus

Each worker has a thread and a mailbox of its own: a slow or failing plugin delays nobody else. Nothing is written to the
host before the feed is in sync.
"""
