"""Change batches on their way: one package per transform.

Lives here: for each, a `PLUGIN` with its config, and a step that is typed before anything runs.
Does not live here: positions, units and dead letters, which the engine handles (runtime), and
casts shared with connectors (sdk.kit).
Data flow: engine -> step -> rows out and rows rejected -> engine. Transforms import the SDK alone,
never each other; nobody imports them, they are discovered by name.
"""
