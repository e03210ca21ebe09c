"""Make the product seen: logs, metrics, events. Implements the kernel's Log, Meter, EventSink.

Lives here: rendering of log lines, the metric registry with its Prometheus text, the event
history that collapses repeats.
Does not live here: deciding what is worth saying (every room does that for itself) and the log
file of a pipeline (runtime).
Data flow: rooms -> kernel.ports -> here -> streams, files, scrapes.
"""
