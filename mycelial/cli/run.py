"""`run`: one workflow in the foreground, with the engine of the daemon and no control plane."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from mycelial.cli.render import nbytes, plural, quantity, show_problems
from mycelial.cli.session import data_home
from mycelial.kernel.clock import Clock, SystemClock
from mycelial.kernel.entropy import new_hex
from mycelial.kernel.errors import (
    ExitCode,
    InvalidManifest,
    MycelialError,
    Problem,
    Severity,
    UsageError,
)

if TYPE_CHECKING:
    from mycelial.runtime.foreground import Outcome
    from mycelial.runtime.ports import WorkerRequest, WorkerStatus
    from mycelial.runtime.spawn import SpawnedWorker
    from mycelial.schemas.desired import DesiredWorkflow, PipelineSpec
    from mycelial.schemas.validate import Validation
    from mycelial.schemas.wire import LivePlan

PLAIN_LINE_SECONDS = 10.0
# A worker's refusals under the machine owner's policy (I12): path, host, connector.
POLICY_CODES = ("MYC-RUN-041", "MYC-RUN-042", "MYC-RUN-043")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `mycelial run` was told."""

    paths: tuple[str, ...]
    workflow: str
    daemon: str
    labels: Mapping[str, str]
    config: Path | None
    state: Path
    quiet: bool


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("-w", "--workflow", default="", help="Which one, when the files hold several.")
@click.option("-d", "--daemon", default="", help="Run it as this daemon would.")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A daemon's config.toml: secrets, policy, endpoints.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where checkpoints are journaled.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only problems and the figures at the end.")
def run(
    paths: tuple[str, ...],
    workflow: str,
    daemon: str,
    labels: tuple[str, ...],
    config: Path | None,
    state: Path | None,
    quiet: bool,
) -> int:
    """Run one workflow here, until it is finished or Ctrl-C.

    Its position is kept, so that an interrupted run goes on where it was. Secrets come from
    MYCELIAL_SECRET_<NAME> or from --config.
    """
    from mycelial.cli.apart import Apart
    from mycelial.cli.files import read_manifests
    from mycelial.cli.fleet import parse_labels
    from mycelial.runtime.foreground import prestart
    from mycelial.schemas.codec import decode
    from mycelial.schemas.desired import PipelineSpec

    options = RunOptions(
        paths,
        workflow,
        daemon,
        parse_labels(labels),
        config,
        (state or data_home() / "run").resolve(),
        quiet,
    )
    # The worker loads Arrow and the drivers while this process reads the manifest.
    worker = prestart()
    try:
        files = read_manifests(options.paths)
        checking = Apart(lambda: _resolve(options, files))
        _load_the_rest()
        found = checking.result()
        chosen = _Chosen(decode(PipelineSpec, found["spec"]), found["file"], files)
        gc.freeze()
        gc.enable()
        return _run(options, chosen, worker)
    finally:
        worker.close()


def _load_the_rest() -> None:
    """Import what is needed later, while the manifest is being checked next door."""
    import mycelial.daemon.lock
    import mycelial.daemon.policy
    import mycelial.daemon.secrets
    import mycelial.runtime.attempt
    import mycelial.runtime.supervised  # noqa: F401


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The workflow to run, and where its failures belong."""

    spec: PipelineSpec
    file: str
    files: Mapping[str, bytes]

    def point(self, problem: Problem) -> Problem:
        """Return the problem at the place in the manifest that it is about."""
        from mycelial.cli.pointing import point

        return point(problem, files=self.files, file=self.file, workflow=self.spec.workflow)


def _resolve(options: RunOptions, files: Mapping[str, bytes]) -> Mapping[str, Any]:
    """Return the spec to run and the file it stands in, as JSON. Raises: MycelialError."""
    from mycelial.cli.wire_up import installed_catalog
    from mycelial.schemas.codec import encode
    from mycelial.schemas.resolve import resolve
    from mycelial.schemas.validate import NOT_CHECKED, made_strict, validate

    found = validate(files, installed_catalog())
    chosen = _choose(options, found)
    subject = f"Workflow/{chosen.name}"
    unknown = [p for p in found.problems if p.code == NOT_CHECKED and p.subject == subject]
    if unknown:
        raise InvalidManifest(made_strict(unknown))  # nothing could run it here
    name = options.daemon or chosen.placement.daemon or "here"
    described = found.desired.daemons.get(name)
    labels = {**(described.labels if described else {}), **options.labels}
    spec = resolve(chosen, name, name, labels, found.desired.project.variables)
    warnings = [p for p in found.problems if p.severity is Severity.WARNING]
    if not options.quiet:
        show_problems(warnings)
    return {"spec": encode(spec), "file": chosen.location.file}


def _choose(options: RunOptions, found: Validation) -> DesiredWorkflow:
    workflows = found.desired.workflows
    errors = [p for p in found.problems if p.severity is Severity.ERROR]
    if options.workflow in workflows:
        return workflows[options.workflow]
    if errors:
        raise InvalidManifest(errors)
    if len(workflows) == 1 and not options.workflow:
        return next(iter(workflows.values()))
    known = ", ".join(sorted(workflows)) or "none"
    what = f"no workflow {options.workflow!r}" if options.workflow else "say which workflow to run"
    raise UsageError("MYC-CLI-036", what, fix=f"-w NAME; in these files: {known}")


def _run(options: RunOptions, chosen: _Chosen, worker: SpawnedWorker) -> int:
    from mycelial.daemon.lock import exclusive
    from mycelial.runtime.foreground import run_foreground
    from mycelial.runtime.supervised import directory_of

    clock, spec = SystemClock(), chosen.spec
    directory = directory_of(options.state, spec.uid)
    with exclusive(directory):
        request = _request(options, chosen, directory, clock)
        progress = _Progress(spec.workflow, clock, quiet=options.quiet)
        stop = threading.Event()
        with _draining_on_signals(stop):
            outcome = run_foreground(
                request,
                prestarted=worker,
                on_status=progress.status,
                on_plan=progress.plan,
                stop_event=stop,
            )
        problem = outcome.problem and chosen.point(outcome.problem)
        return progress.end(outcome, problem, was_interrupted=stop.is_set())


def _request(options: RunOptions, chosen: _Chosen, directory: Path, clock: Clock) -> WorkerRequest:
    """Build the worker's request under the machine owner's policy. Raises: MycelialError."""
    from mycelial.daemon.config import DaemonConfig, load
    from mycelial.daemon.policy import localise, refuse_spec, worker_policy
    from mycelial.daemon.secrets import SecretsOfSpec
    from mycelial.runtime.attempt import raise_attempt
    from mycelial.runtime.ports import WorkerRequest
    from mycelial.schemas.wire import Fence

    if options.config is None:
        config = DaemonConfig(base_dir=str(Path.cwd()))
    else:
        config = load(options.config)
    spec = chosen.spec
    refused = refuse_spec(spec, config)
    if refused is not None:
        raise _Refused(chosen.point(refused))
    spec = localise(spec, config)
    return WorkerRequest(
        job="run",
        spec=spec,
        # Counted from the clock, a start still takes over after its state directory was lost.
        fence=Fence(0, raise_attempt(directory / "attempt", at_least=int(clock.now()))),
        state_dir=str(directory),
        log_path=str(directory / "log"),
        secrets=SecretsOfSpec(config, os.environ)(spec),
        policy=worker_policy(config),
        order=new_hex(),
        patient=False,
    )


class _Refused(MycelialError):
    """The machine owner's policy refuses (I12)."""

    exit_code = ExitCode.NOT_ALLOWED

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code, problem.what, fix=problem.fix, where=problem.where)
        self.problem = problem


class _Progress:
    """One line that moves on a terminal; elsewhere a plain line every ten seconds."""

    def __init__(self, name: str, clock: Clock, *, quiet: bool) -> None:
        self._name, self._clock, self._quiet = name, clock, quiet
        self._begun = clock.monotonic()
        self._moves = sys.stderr.isatty() and not quiet
        self._last_line = self._begun
        self._last_error = ""

    def plan(self, plan: LivePlan) -> None:
        """Say what is promised before anything runs."""
        if self._quiet:
            return
        rows = "" if plan.rows_estimate is None else f", about {plan.rows_estimate:,} rows"
        self._say(f"{self._name}: {plan.mode} into {plan.target}, {plan.guarantee}{rows}")
        if plan.guarantee_reason:
            self._say(f"  {plan.guarantee_reason}")
        for line in (*plan.ddl, *plan.notes):
            self._say(f"  {line}")

    def status(self, status: WorkerStatus) -> None:
        """Show where it is; a failure that is being retried, once."""
        error = status.error
        if error is not None and status.state == "retrying" and error.what != self._last_error:
            self._last_error = error.what
            self._say(f"  will try again: {error.code} {error.what}")
            if error.fix:
                self._say(f"    fix: {error.fix}")
        if self._quiet:
            return
        now = self._clock.monotonic()
        rows = status.counters.rows_committed
        line = f"{rows:,} rows, {quantity(rows / max(now - self._begun, 0.001))}/s, {status.state}"
        if self._moves:
            click.echo(f"\r\033[K{line}", err=True, nl=False)
        elif now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            click.echo(line, err=True)

    def end(self, outcome: Outcome, problem: Problem | None, *, was_interrupted: bool) -> int:
        """Print the figures; return the exit code."""
        seconds = self._clock.monotonic() - self._begun
        status, plan = outcome.status, outcome.plan
        if status is not None and (plan is not None or problem is None):
            counters = status.counters
            self._say(
                f"{self._name}: {plural(counters.rows_committed, 'row')} in {seconds:.2f} s "
                f"({quantity(counters.rows_committed / max(seconds, 0.001))}/s, "
                f"{nbytes(counters.bytes_committed)}, "
                f"{plural(counters.units_committed, 'commit unit')}), "
                f"{plan.guarantee if plan else 'not planned'}, {outcome.state}"
            )
        if problem is not None:
            show_problems((problem,))
            is_policy = problem.code in POLICY_CODES
            return ExitCode.NOT_ALLOWED if is_policy else ExitCode.FAILED
        return ExitCode.INTERRUPTED if was_interrupted else ExitCode.DONE

    def _say(self, line: str) -> None:
        click.echo(f"\r\033[K{line}" if self._moves else line, err=True)


class _draining_on_signals:  # noqa: N801 - reads as a statement
    """Drain on the first SIGINT or SIGTERM; the second ends at once."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        click.echo("\ndraining: the open unit is committed first; again to end at once", err=True)
        self._stop.set()
