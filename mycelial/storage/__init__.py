"""What the control plane must remember: memory (reference), sqlite (default).

Lives here: the Store protocol, its implementations and their SQL.
Does not live here: desired state (git has it) and decisions about it (reconciler).
Data flow: controlplane -> Store -> SQLite; what was written comes back as frozen values.
One conformance suite, tests/storage, runs on every implementation.
"""
