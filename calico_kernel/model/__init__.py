"""What is stored and what it means as values: resources, internal records, their keys, and the rules for both. Pure.

Stands first on the line: datastore bytes come in through ``codec``, documents through ``documents``; typed values go on
to selectors, policy and calc.

    meta, types              the base of all kinds; what a field may hold, said in its annotation
    policy, network, endpoints, bgp, cluster, felix, services    the kinds
    kinds                    the register of kinds: names, plurals, classes; plugins add theirs
    keys, codec, records     identities and paths; bytes to values and back; what a datastore hands out
    documents, defaults, validate, rules    what people write, completed and checked
    ipam                     blocks, affinities, handles, and requests to an address manager
    kubernetes, pods         Kubernetes objects as Calico's
    felix_parameters, felix_resolve    agent configuration out of its layers
    names, formats, durations, schema  names derived from names; single values; field descriptions
    wellknown                labels, prefixes, profiles and tiers that mean something by themselves
    nodestate                what one node must do (made by calc)
"""
