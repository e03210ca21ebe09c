"""Decide what must change. Pure: no I/O, no clock, no chance.

Lives here: observed state, diff, placement, plan, converge, conditions, leases, backoff, the
keyed work queue. `loop.py` is the only async file and reaches the world through ports.
Does not live here: carrying anything out (controlplane for the fleet, daemon for the machine).
Data flow: desired state, observed state, now -> here -> plans, assignment sets, operations,
conditions.
"""
