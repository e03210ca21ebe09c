"""One machine of the fleet: joins, keeps the last signed set, runs it, and reports.

Lives here: config.toml, enrolment, local state, local policy, inventory, the agent's loops,
commands, shutdown.
Does not live here: what should run (reconciler.converge decides), how rows move (runtime), the
HTTP calls (client.link), keys and certificates (security).
Data flow: control plane -> link -> agent -> verified set on disk -> converge -> supervisor;
supervisor -> statuses -> reports -> link. Losing the control plane stops none but the last arrow.
"""
