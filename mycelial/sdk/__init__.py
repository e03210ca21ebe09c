"""What a plugin author imports, and nothing else.

Lives here: Batch and Envelope, Position, Context, the Source, Destination and Transform
protocols, PluginSpec, the registry, the error classes that steer retries, the conformance suite;
`kit/` has the parts that connectors share (types, SQL dialects, write modes, file commits).
Does not live here: the engine (runtime) and every concrete connector.
Data flow: runtime calls plugins through these protocols; plugins call nothing above the SDK.
"""
