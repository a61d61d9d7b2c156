"""The namespace lab: a small network of racks, hosts and workloads on one machine, every host with the real agent.

``topology`` says what to build (pure), ``network`` and ``hosts`` build it out of namespaces, ``workloads`` adds
workloads by real CNI requests, ``engine`` joins these, ``resident`` serves a lab from inside its bubble and ``client``
speaks to it from outside. ``recipes``, ``expectation``, ``prober``, ``runner`` and ``render`` are ``calico lab run``.
"""
