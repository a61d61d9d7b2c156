"""Desired state against observed state: what every plugin that touches the outside needs, whatever it writes to.

Stands last on the line, inside a plugin: deltas change what is desired, a look outside says what is observed, the
difference is written in order. Touches nothing itself.

    tracker      what is pending, kept as a difference; each key fails for itself
    ordered      several kinds that refer to each other: referents in first and out last
    ownership    how a restarted process knows its own
    backoff      how long to wait after a failure
    resync       when to distrust what was observed, and look again
"""
