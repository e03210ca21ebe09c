"""Changes to the desired state: every one is a commit, planned before it is made.

`prepare` runs on the source's thread and has no effects; `apply` and `rollback` carry its result
out by compare-and-swap. A plan that was shown is compared by hash: a stale one is refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mycelial.controlplane import lastgood
from mycelial.controlplane.auth import Principal, Right
from mycelial.controlplane.chronicle import Chronicle
from mycelial.controlplane.compiling import Compiled, ObjectKey
from mycelial.controlplane.controller import FleetController
from mycelial.controlplane.looking import not_found
from mycelial.controlplane.threads import Lanes
from mycelial.gitops.apply import Editor, new_path, plan_edits, revert
from mycelial.gitops.base import BlobId, Commit, ManifestSource, Tree, VersionedSource
from mycelial.kernel.clock import Clock
from mycelial.kernel.errors import (
    CheckSaysNo,
    Conflict,
    InvalidManifest,
    NotAllowed,
    Problem,
    Severity,
    StalePlan,
    UsageError,
)
from mycelial.reconciler.guard import judge_deletions, object_id
from mycelial.reconciler.placement import Resolve
from mycelial.reconciler.plan import FleetOutcome, plan_fleet
from mycelial.schemas.desired import DesiredState
from mycelial.schemas.plan import Effect, Plan
from mycelial.schemas.views import (
    ApplyReply,
    ApplyRequest,
    PlanReply,
    PlanRequest,
    RevisionView,
    RollbackRequest,
)

ATTEMPTS = 2  # the commit is replanned once if the head moved
SETTLE_SECONDS = 5.0
Edits = Mapping[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A change as it would be made on top of `head`. `deleted` names what goes ("Workflow/x"),
    `released` what is gone from `head` already and held by the guard."""

    head: str
    edits: Edits
    outcome: FleetOutcome
    problems: tuple[Problem, ...] = ()
    deleted: tuple[str, ...] = ()
    released: tuple[str, ...] = ()
    diff: str = ""

    @property
    def plan(self) -> Plan:
        """The static plan."""
        return self.outcome.plan

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What makes the change impossible."""
        return tuple(p for p in self.problems if p.severity is Severity.ERROR)

    def reply(self) -> PlanReply:
        """Return it as people see it."""
        return PlanReply(
            plan=self.plan, plan_hash=self.plan.hash(), problems=self.problems, diff=self.diff
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A request in terms of objects."""

    to_set: list[tuple[str, str, str]] = field(default_factory=list)
    to_delete: set[ObjectKey] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


class Changes:
    """Plan, apply, rollback and history over one source."""

    def __init__(
        self,
        *,
        controller: FleetController,
        editor: Editor,
        resolve: Resolve,
        lanes: Lanes,
        clock: Clock,
        chronicle: Chronicle,
    ) -> None:
        self._controller = controller
        self._source: ManifestSource = controller.source
        self._compiler = controller.compiler
        self._editor = editor
        self._resolve = resolve
        self._lanes = lanes
        self._clock = clock
        self._chronicle = chronicle
        self._one_at_a_time = asyncio.Lock()

    async def prepare(self, request: PlanRequest) -> Prepared:
        """Plan a request on the head; nothing is changed."""
        prepared = await self._prepared(lambda head: self._edits_of(request, head))
        return dataclasses.replace(prepared, released=self._released(request))

    async def apply(self, who: Principal, request: ApplyRequest) -> ApplyReply:
        """Validate, plan and commit as one unit.

        Raises: InvalidManifest; StalePlan MYC-API-050; CheckSaysNo MYC-API-051 for deletions that
        were not confirmed; NotAllowed where the source cannot be written; Conflict.
        """
        who.require(Right.CHANGE)
        if request.branch:
            raise NotAllowed(
                "MYC-API-052",
                f"this control plane commits to its tracked branch, not to {request.branch!r}",
                fix="commit to the branch with git, and open a merge request",
            )
        async with self._one_at_a_time:
            for attempt in range(ATTEMPTS):
                prepared = await self.prepare(request.request)
                _check(prepared, plan_hash=request.plan_hash, confirmed=request.confirmed)
                message = request.message or _message(prepared)
                try:
                    return await self._commit(who, prepared, message=message)
                except Conflict:
                    if attempt == ATTEMPTS - 1:
                        raise
        raise AssertionError("the last attempt returns or raises")

    async def rollback(self, who: Principal, request: RollbackRequest) -> ApplyReply:
        """Commit the reversal of a revision, which is quarantined: it never comes into force again.

        `revision` names the last one to keep: everything after it is undone. Without it the last
        commit (that touched `name`, as Kind/name) is undone.
        """
        who.require(Right.CHANGE)
        source = self._versioned()
        async with self._one_at_a_time:
            head = await self._lanes.source.run(source.probe, None)
            commit, bad = await self._lanes.source.run(
                self._reversal, source, request, head.revision, who.name
            )
            prepared = await self._prepared(lambda _head: (commit.files, []))
            if prepared.head != commit.parent:
                raise Conflict(
                    "MYC-API-056", "the branch moved meanwhile; nothing was done", fix="try again"
                )
            _check(prepared, plan_hash=request.plan_hash, confirmed=prepared.deleted)
            message = request.message or commit.message
            reply = await self._commit(who, prepared, message=message, confirms=False)
            for revision in bad:
                await self._controller.quarantine(revision)
                self._chronicle.record(
                    "RevisionRolledBack",
                    f"Source/{source.name}",
                    f"{revision} by {who.name}",
                    severity="warning",
                    revision=revision,
                )
            return reply

    async def history(self, *, limit: int, subject: str) -> tuple[RevisionView, ...]:
        """Return commits, newest first, with what became of them."""
        path = self._path_of(subject) if subject else None
        commits = await self._lanes.source.run(self._source.history, limit=limit, path=path)
        applied = self._controller.snapshot.revision_applied
        quarantined, invalid = set(self._controller.quarantined), set(self._controller.invalid)
        views, is_older = [], False
        for commit in commits:
            if commit.revision in quarantined:
                outcome = "quarantined"
            elif commit.revision in invalid:
                outcome = "invalid"
            elif commit.revision == applied:
                outcome = "current"
            else:
                outcome = "applied" if is_older or path else "pending"
            is_older = is_older or commit.revision == applied
            views.append(
                RevisionView(
                    revision=commit.revision,
                    author=commit.author,
                    message=commit.message,
                    committed_at=commit.committed_at,
                    paths=commit.paths,
                    outcome=outcome,
                )
            )
        return tuple(views)

    async def manifest(self, key: ObjectKey) -> str:
        """Return the YAML text of one object at the revision in force; empty when it is gone."""
        return await self._lanes.source.run(
            self._compiler.manifest, self._source, self._controller.compiled, key
        )

    # On the source's thread

    def _edits_of(
        self, request: PlanRequest, head: tuple[Tree, Compiled]
    ) -> tuple[Edits, list[Problem]]:
        tree, compiled = head
        wanted = self._wanted(request, compiled)
        touched = {compiled.where[k] for k in wanted.to_delete if k in compiled.where}
        touched |= {compiled.where.get((kind, name), "") for kind, name, _ in wanted.to_set}
        touched |= {new_path(kind, name) for kind, name, _ in wanted.to_set}
        files = self._contents({path: tree.files[path] for path in touched if path in tree.files})
        if any(p.severity is Severity.ERROR for p in wanted.problems):
            return {}, wanted.problems
        edits = plan_edits(
            files,
            compiled.where,
            to_set=wanted.to_set,
            to_delete=wanted.to_delete,
            editor=self._editor,
        )
        gone = wanted.to_delete | {_key(text) for text in request.delete}
        if request.forget and gone:
            edits |= self._forgetting(tree, edits, gone)
        return edits, wanted.problems

    def _released(self, request: PlanRequest) -> tuple[str, ...]:
        """Return which of the deletions asked for are committed already, and held.

        Raises: CheckSaysNo MYC-API-057 unless they are all that is held: with a part confirmed the
        rest would be few enough to pass unasked.
        """
        held = self._held()
        released = tuple(sorted(held & set(request.delete)))
        if released and (rest := sorted(held - set(released))):
            raise CheckSaysNo(
                "MYC-API-057",
                f"held together with it: {', '.join(rest)}",
                fix="confirm all of them: mycelial delete --held; or first bring back by a commit "
                "what shall stay",
            )
        return released

    def _held(self) -> frozenset[str]:
        snapshot = self._controller.snapshot
        ledger = snapshot.fleet.ledger
        found = judge_deletions(snapshot.desired, ledger).held
        return frozenset(object_id(ledger.known[uid]) for uid in found)

    def _forgetting(self, tree: Tree, edits: Edits, gone: set[ObjectKey]) -> Edits:
        front = self._compiler.front
        path = front.project_file
        known = self._contents({path: tree.files[path]}) if path in tree.files else {}
        current = edits.get(path) or known.get(path)
        return {path: front.forgetting(current, sorted(gone))}

    def _contents(self, blobs: Mapping[str, BlobId]) -> dict[str, bytes]:
        found = self._source.read(blobs.values())
        return {path: found[blob] for path, blob in blobs.items()}

    def _wanted(self, request: PlanRequest, compiled: Compiled) -> _Wanted:
        wanted = _Wanted()
        for path, text in sorted(request.files.items()):
            objects, problems = self._compiler.front.split(
                path, text.encode("utf-8", "surrogateescape")
            )
            wanted.problems.extend(problems)
            wanted.to_set.extend(objects)
            if request.prune and not problems:
                named = {(kind, name) for kind, name, _ in objects}
                there = {key for key, where in compiled.where.items() if where == path}
                wanted.to_delete.update(there - named)
        for text in request.delete:
            kind, name = _key(text)
            if (kind, name) not in compiled.where and text in self._held():
                continue  # gone from git already: nothing to edit, only to confirm
            if (kind, name) not in compiled.where:
                raise not_found(kind, name, (n for k, n in compiled.where if k == kind))
            wanted.to_delete.add((kind, name))
        wanted.to_delete.difference_update((kind, name) for kind, name, _ in wanted.to_set)
        return wanted

    async def _prepared(
        self, edits_of: Callable[[tuple[Tree, Compiled]], tuple[Edits, list[Problem]]]
    ) -> Prepared:
        in_force, now = self._controller.snapshot.desired, self._clock.now()

        def edit() -> tuple[DesiredState, Callable[[FleetOutcome], Prepared]]:
            tree = self._source.tree(self._source.probe(None).revision)
            compiled = self._compiler.compile(self._source, tree)
            edits, problems = edits_of((tree, compiled))
            after = self._compiler.compile_edited(self._source, tree, edits)
            known = set(compiled.problems)
            problems += [p for p in after.problems if p not in known or _is_in(p, edits)]
            base = in_force if in_force.revision else None
            gone = sorted(f"{k}/{n}" for k, n in compiled.where if (k, n) not in after.where)
            return lastgood.keep_last_good(after.desired, base), lambda outcome: Prepared(
                head=tree.revision,
                edits=edits,
                outcome=outcome,
                problems=tuple(dict.fromkeys(problems)),
                deleted=tuple(gone) if not _has_errors(problems) else (),
                diff=self._diff(tree, edits),
            )

        def plan() -> Prepared:
            return prepared(plan_fleet(desired, fleet, now, self._resolve))

        desired, prepared = await self._lanes.source.run(edit)
        # Labels that the change itself gives to daemons decide where its workflows run.
        fleet = self._controller.fleet(desired)
        return await self._lanes.source.run(plan)

    def _diff(self, tree: Tree, edits: Edits) -> str:
        files = self._contents({path: tree.files[path] for path in edits if path in tree.files})
        lines: list[str] = []
        for path, data in sorted(edits.items()):
            old = files.get(path, b"").decode("utf-8", "replace")
            new = (data or b"").decode("utf-8", "replace")
            lines += difflib.unified_diff(
                old.splitlines(keepends=True),
                new.splitlines(keepends=True),
                f"a/{path}" if path in files else "/dev/null",
                f"b/{path}" if data is not None else "/dev/null",
            )
        return "".join(line if line.endswith("\n") else line + "\n" for line in lines)

    def _reversal(
        self, source: VersionedSource, request: RollbackRequest, head: str, author: str
    ) -> tuple[Commit, tuple[str, ...]]:
        """Return the commit to make, and the revisions it undoes."""
        if request.revision:
            return self._back_to(source, request, head, author)
        path = self._path_of(request.name) if request.name else None
        commits = source.history(limit=1, path=path)
        if not commits:
            raise CheckSaysNo("MYC-API-053", "there is no commit to undo")
        bad = commits[0].revision
        return revert(source, bad, author=_signature(author), head=head), (bad,)

    def _back_to(
        self, source: VersionedSource, request: RollbackRequest, head: str, author: str
    ) -> tuple[Commit, tuple[str, ...]]:
        keep = source.describe(request.revision)
        only = self._path_of(request.name) if request.name else None
        changes = [c for c in source.changes(keep.revision, head) if only is None or c.path == only]
        if not changes:
            raise CheckSaysNo(
                "MYC-API-053", f"nothing has changed since {request.revision}", fix="name an older"
            )
        contents = source.read(c.before for c in changes if c.before is not None)
        files = {c.path: contents[c.before] if c.before is not None else None for c in changes}
        bad = []
        for commit in source.history(limit=1000, path=only):
            if commit.revision == keep.revision:
                break
            bad.append(commit.revision)
        message = f"Roll back to {keep.revision}\n\nThis undoes {len(bad)} commits.\n"
        return Commit(head, message, _signature(author), files), tuple(bad)

    def _path_of(self, subject: str) -> str:
        kind, _, name = subject.partition("/")
        if not name:
            kind, name = "Workflow", subject
        where = self._controller.compiled.where
        if (kind, name) not in where:
            raise not_found(kind, name, (n for k, n in where if k == kind))
        return where[kind, name]

    # Effects

    async def _commit(
        self, who: Principal, prepared: Prepared, *, message: str, confirms: bool = True
    ) -> ApplyReply:
        if confirms and prepared.released:
            await self._controller.release(prepared.released, seconds=SETTLE_SECONDS)
            for name in prepared.released:
                self._chronicle.record("DeletionConfirmed", name, f"by {who.name}")
        if not prepared.edits:
            return ApplyReply(revision=prepared.head, plan=prepared.plan, committed=False,
                              problems=prepared.problems)  # fmt: skip
        if confirms and prepared.deleted:
            # Before the commit: the controller may see it before this call goes on.
            await self._controller.confirm_deletions(prepared.deleted)
        commit = Commit(prepared.head, message, _signature(who.name), dict(prepared.edits))
        revision = await self._lanes.source.run(self._source.commit, commit)
        self._chronicle.record(
            "Committed",
            f"Source/{self._source.name}",
            f"{revision} by {who.name}",
            revision=revision,
        )
        self._controller.look()
        # So that whoever applies reads what was applied; a slow store only makes it later.
        await self._controller.settle(revision, seconds=SETTLE_SECONDS)
        return ApplyReply(
            revision=revision, plan=prepared.plan, committed=True, problems=prepared.problems
        )

    def _versioned(self) -> VersionedSource:
        source = self._source
        if not source.can_write or not hasattr(source, "changes"):
            raise NotAllowed(
                "MYC-API-054",
                f"the source {source.name} cannot be changed from here",
                fix="use git revert in the repository, and push",
            )
        return source  # type: ignore[return-value]


def _check(prepared: Prepared, *, plan_hash: str, confirmed: Iterable[str]) -> None:
    """Refuse what must not be committed."""
    if prepared.errors:
        raise InvalidManifest(prepared.problems)
    if plan_hash and plan_hash != prepared.plan.hash():
        raise StalePlan(
            "MYC-API-050",
            "the plan was made for a state that has moved on",
            fix="make it again: mycelial plan",
        )
    missing = sorted({*prepared.deleted, *prepared.released} - set(confirmed))
    if missing:
        raise CheckSaysNo(
            "MYC-API-051",
            f"this deletes {', '.join(missing)}, which was not confirmed",
            fix="confirm exactly these deletions",
        )


def _key(text: str) -> ObjectKey:
    kind, _, name = text.partition("/")
    return kind, name


def _has_errors(problems: Iterable[Problem]) -> bool:
    return any(p.severity is Severity.ERROR for p in problems)


def _is_in(problem: Problem, edits: Edits) -> bool:
    return problem.where is not None and problem.where.file in edits


def _signature(name: str) -> str:
    if any(c in name for c in "<>\n\0"):
        raise UsageError("MYC-API-055", "the author's name has characters git does not take")
    return f"{name} <{name}@mycelial>"


_VERB = {Effect.CREATE: "Add", Effect.DELETE: "Remove"}


def _message(prepared: Prepared) -> str:
    changes = [f"{_VERB.get(c.effect, 'Change')} {c.kind}/{c.name}" for c in prepared.plan.changes]
    if len(changes) == 1:
        return changes[0]
    if not changes:
        return f"Change {', '.join(sorted(prepared.edits))}"
    return f"Change {len(changes)} objects\n\n" + "\n".join(changes) + "\n"
