"""What a manifest may say, and what it means. Pure: no I/O, no clock, no chance.

Lives here: the kinds, YAML with positions, located problems, the catalog of plugins as data,
compiling to desired state, schedules as pure functions, the wire's dataclasses.
Does not live here: where manifests come from (gitops) and who runs them (reconciler, runtime).
Data flow: bytes -> nodes with positions -> objects -> DesiredState -> PipelineSpec per daemon.

Nothing is imported here: `wire`, `desired`, `selectors` and `codec` must load no pydantic.
"""
