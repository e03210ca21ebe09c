"""The command line: verbs, rendering, exit codes.

Lives here: one module per group of verbs, `wire_up.py` which builds real objects for the
processes, and the workers' composition roots. Verbs are imported only when called, so that
`--help` and completion stay fast.
Does not live here: decisions. A verb gathers input, calls one use case and renders its answer.
Data flow: arguments -> a verb -> client, or a composed process -> values -> render -> the terminal.
"""
