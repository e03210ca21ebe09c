"""The words every room speaks. Standard library only.

Lives here: errors and problems, the clock and chance protocols, canonical JSON and digests,
`Secret`, durable file writes, and the protocols (Log, Meter, EventSink) that others are given.
Does not live here: anything that knows what a workflow is.
Data flow: imported by all rooms, imports none.
"""
