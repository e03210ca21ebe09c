"""The data plane of one machine: worker processes that move rows and never lose one.

Lives here: the engine (read, transform, write, commit, journal, durable), commit units, the local
journal, retry, the zygote and other launchers, the worker's side and the daemon's side of its
control pipe, per-pipeline logs.
Does not live here: which pipelines should run (reconciler.converge decides, daemon asks).
Data flow: daemon -> supervisor -> launcher -> worker process -> engine -> plugins.
"""
