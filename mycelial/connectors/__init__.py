"""Read from and write to the systems of others: one package per connector.

Lives here: for each, a `PLUGIN` with its config and capabilities, a source, a destination.
Does not live here: what connectors share (sdk.kit), and acks, retries, units and fences, which
the engine enforces for all of them (runtime).
Data flow: a system -> source -> engine -> destination -> a system. Connectors import the SDK
alone, never each other; nobody imports them, they are discovered by name.

Nothing is imported here: the drivers are loaded by the workers whose pipelines need them.
"""
