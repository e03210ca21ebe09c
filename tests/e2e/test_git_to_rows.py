"""From commits in a real repository to rows in a real PostgreSQL, and what each kind of edit does.

One fleet serves all: a control plane that follows a bare repository, and one daemon. Every test
has a workflow, a growing source table and a destination table of its own, and leaves the
repository as it found it; `keeper` is always there, so that no deletion is one of everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import postgres_server
from fleet_processes import Fleet
from git_checkout import Checkout
from live_table import LiveTable
from mycelial.kernel.errors import CheckSaysNo, NotAllowed
from mycelial.schemas.views import (
    ApplyRequest,
    EventView,
    PlacementView,
    PlanRequest,
    WorkflowView,
)
from mycelial.schemas.wire import PipelineStatus

pytestmark = [pytest.mark.e2e, pytest.mark.postgres]

BASE = {
    "mycelial.yaml": """\
apiVersion: mycelial/v1
kind: Project
metadata: { name: e2e }
spec: { uid: 019ab0c2-4e10-7000-8000-0000000000e2 }
""",
    "daemons/box.yaml": """\
apiVersion: mycelial/v1
kind: Daemon
metadata: { name: box, labels: { site: lyon } }
""",
}


@dataclass
class World:
    """Everything a story needs, and the few looks at it that all stories share."""

    fleet: Fleet
    git: Checkout
    database: postgres_server.Database

    def table(self, name: str) -> LiveTable:
        return LiveTable(self.fleet.folder / "shop" / "shop.db", name)

    def manifest(self, name: str, *, tag: str = "a", table: str = "", moved: str = "") -> str:
        server = self.database.server
        table = table or name
        return f"""\
apiVersion: mycelial/v1
kind: Workflow
metadata:
  name: {name}{
            f'''
  moved: {{ from: {moved} }}'''
            if moved
            else ""
        }
spec:
  daemon: box
  schedule: {{ continuous: {{ poll: 100ms }} }}
  source: {{ sqlite: {{ path: shop/shop.db, table: {table}, cursor: id }} }}
  transforms:
    - tag: {{ site: "${{daemon.labels.site}}", version: {tag} }}
  destination:
    postgres:
      host: 127.0.0.1
      port: {server.port}
      database: {self.database.name}
      user: mycelial
      table: {table}
"""

    def view(self, name: str) -> WorkflowView | None:
        try:
            return self.fleet.client.workflow(name)
        except CheckSaysNo:
            return None

    def place(self, name: str) -> PlacementView:
        view = self.view(name)
        assert view is not None
        (place,) = view.placements
        return place

    def status(self, name: str) -> PipelineStatus:
        status = self.place(name).status
        assert status is not None
        return status

    def until_applied(self, name: str, revision: str) -> WorkflowView:
        found: list[WorkflowView] = []

        def applied() -> bool:
            view = self.view(name)
            found[:] = [view] if view else []
            return view is not None and view.revision == revision and view.applied == 1

        self.fleet.until(f"{name} is applied at {revision}", applied)
        return found[0]

    def until_seen(self, revision: str) -> None:
        self.fleet.until(
            f"{revision} is seen",
            lambda: self.fleet.client.status().revision_seen == revision,
        )

    def arrived(self, table: str, *, columns: str = "id, name, cents") -> list[tuple[object, ...]]:
        exists = f"select count(*) from pg_tables where tablename = '{table}'"
        if self.database.query(exists) == [(0,)]:
            return []
        return sorted(self.database.query(f'select {columns} from "{table}"'))

    def until_all_arrived(self, table: LiveTable) -> None:
        """Wait for the same rows, each as often as at the source (I2)."""
        rows = table.rows()
        self.fleet.until(
            f"the {len(rows)} rows of {table.name} are there",
            lambda: self.arrived(table.name) == rows,
        )

    def until_more_arrive(self, table: LiveTable) -> None:
        before = len(self.arrived(table.name))
        self.fleet.until(
            f"more rows of {table.name} arrive", lambda: len(self.arrived(table.name)) > before
        )

    def until_all_reported(self, name: str, table: LiveTable) -> PipelineStatus:
        """Wait until the daemon's counters have what is at the destination."""

        def is_reported() -> bool:
            self.fleet.client.sync()  # counters alone are reported at leisure
            return self.status(name).counters.rows_committed == table.count()

        self.fleet.until(f"all rows of {name} are reported", is_reported)
        return self.status(name)

    def events(self, reason: str) -> list[EventView]:
        return [e for e in self.fleet.client.events(limit=1000) if e.reason == reason]

    def until_event(self, reason: str, revision: str) -> EventView:
        found: list[EventView] = []

        def is_told() -> bool:
            found[:] = [e for e in self.events(reason) if e.revision == revision]
            return bool(found)

        self.fleet.until(f"{reason} of {revision} is told", is_told)
        return found[0]


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, postgres: postgres_server.Server
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("git-to-rows")
    git = Checkout(folder)
    git.push(BASE)
    database = postgres.create_database()
    with Fleet(folder / "fleet") as fleet:
        fleet.server.argv = [
            *fleet.server.argv, "--repository", str(git.bare), "--poll", "200ms"
        ]  # fmt: skip
        fleet.start_server()
        fleet.add_daemon("box", reads=["shop"])
        fleet.until_online()
        world = World(fleet, git, database)
        keeper = world.table("keeper")
        git.push({"workflows/keeper.yaml": world.manifest("keeper")})
        world.until_all_arrived(keeper)
        yield world
        fleet.stop()
        assert fleet.leftovers() == []
    database.drop()


_numbers = itertools.count(1)


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The world, whose repository is put back afterwards by a commit on top."""
    before = shared.git.git("rev-parse", "HEAD")
    yield shared
    shared.git.git("rm", "-rqf", "--ignore-unmatch", ".")
    shared.git.git("checkout", "-q", before, "--", ".")
    if shared.git.git("status", "--porcelain"):
        shared.git.git("commit", "-qm", "Put back")
        shared.until_seen(shared.git.push_head())


@pytest.fixture
def orders(world: World) -> LiveTable:
    """A table whose workflow of the same name runs; it is committed in `path_of(orders)`."""
    table = world.table(f"orders{next(_numbers)}")
    revision = world.git.push({path_of(table): world.manifest(table.name)}, "Add a workflow")
    world.until_applied(table.name, revision)
    world.until_all_arrived(table)
    return table


def path_of(table: LiveTable) -> str:
    return f"workflows/{table.name}.yaml"


def test_a_commit_becomes_rows(world: World) -> None:
    table = world.table("fresh")
    revision = world.git.push({path_of(table): world.manifest("fresh")})
    with table.growing():
        view = world.until_applied("fresh", revision)
        world.until_more_arrive(table)
    world.until_all_arrived(table)
    assert (view.file, view.line) == ("workflows/fresh.yaml", 1)
    assert world.arrived("fresh", columns="distinct site, version") == [("lyon", "a")]
    assert world.status("fresh").guarantee == "exactly-once"


def test_an_edited_transform_restarts_from_the_checkpoint(world: World, orders: LiveTable) -> None:
    before = world.status(orders.name)
    with orders.growing():
        world.until_more_arrive(orders)
        edited = world.manifest(orders.name, tag="b")
        world.until_applied(orders.name, world.git.push({path_of(orders): edited}))
        world.fleet.until(
            "rows of the new version arrive",
            lambda: ("b",) in world.arrived(orders.name, columns="distinct version"),
        )
    world.until_all_arrived(orders)
    after = world.until_all_reported(orders.name, orders)
    assert (after.generation, after.attempt) == (before.generation + 1, before.attempt + 1)
    assert after.counters.rows_read == orders.count(), "some row was read twice"
    versions = [v for _, v in world.arrived(orders.name, columns="id, version")]
    assert versions == sorted(versions), "rows delivered before the edit keep theirs"
    assert set(versions) == {"a", "b"}


def test_a_rename_with_moved_keeps_the_checkpoint(world: World, orders: LiveTable) -> None:
    before = world.place(orders.name).status
    assert before is not None
    name = f"{orders.name}-renamed"
    with orders.growing():
        renamed = world.manifest(name, table=orders.name, moved=orders.name)
        revision = world.git.push(
            {path_of(orders): None, f"workflows/{name}.yaml": renamed}, "Rename"
        )
        view = world.until_applied(name, revision)
        world.until_more_arrive(orders)
    world.until_all_arrived(orders)
    assert view.uid == before.uid
    assert world.view(orders.name) is None
    after = world.until_all_reported(name, orders)
    assert after.counters.rows_read == orders.count(), "some row was read twice"
    assert world.until_event("WorkflowRenamed", revision).message == f"from {orders.name}"


def test_a_deleted_file_drains_its_pipeline_and_leaves_the_rows(
    world: World, orders: LiveTable
) -> None:
    uid = world.status(orders.name).uid
    keeper = world.status("keeper")
    with orders.growing():
        world.until_more_arrive(orders)
        revision = world.git.push({path_of(orders): None}, "Remove")
        world.fleet.until(f"{orders.name} is gone", lambda: world.view(orders.name) is None)
        log = world.fleet.folder / "state" / "box" / "pipelines" / uid / "log"
    assert '"drained"' in log.read_text("utf-8").splitlines()[-1]
    arrived = world.arrived(orders.name)
    assert arrived == orders.rows()[: len(arrived)], "what had been read was committed, in order"
    assert uid not in {p.uid for p in world.fleet.client.daemon("box").pipelines}
    assert world.until_event("WorkflowDeleted", revision).subject == f"Workflow/{orders.name}"
    assert world.status("keeper").attempt == keeper.attempt


def test_an_invalid_file_is_located_and_blocks_only_its_own_objects(
    world: World, orders: LiveTable
) -> None:
    before = world.status(orders.name)
    sibling = world.table(f"{orders.name}sibling")
    broken = world.manifest(orders.name).replace("transforms:", "transform:")
    line = broken.splitlines().index("  transform:") + 1
    files = {path_of(orders): broken, path_of(sibling): world.manifest(sibling.name)}
    revision = world.git.push(files, "Break one, add one")
    world.until_applied(sibling.name, revision)
    world.until_all_arrived(sibling)

    orders.add(50)
    world.until_all_arrived(orders)
    after = world.status(orders.name)
    assert (after.attempt, after.spec_hash) == (before.attempt, before.spec_hash)
    (problem,) = world.fleet.client.status().problems
    assert problem.where is not None
    assert (problem.where.file, problem.where.line) == (path_of(orders), line)
    assert "transform" in problem.what
    assert "transforms" in problem.fix
    told = world.until_event("RevisionInvalid", revision)
    assert f"{path_of(orders)}:{line}" in told.message
    assert world.fleet.client.history()[0].outcome == "invalid"


def test_an_emptied_repository_stops_nothing(world: World, orders: LiveTable) -> None:
    before = {name: world.status(name).attempt for name in (orders.name, "keeper")}
    world.git.git("rm", "-rq", ".")
    world.git.git("commit", "-qm", "Oops")
    revision = world.git.push_head()
    world.until_seen(revision)

    held = world.fleet.client.status().held
    assert {text.split(":")[0] for text in held} == {f"Workflow/{name}" for name in before}
    assert world.until_event("DeletionHeld", revision).severity == "warning"
    orders.add(50)
    world.until_all_arrived(orders)
    assert {name: world.status(name).attempt for name in before} == before


def test_a_force_push_is_accepted_and_told(world: World, orders: LiveTable) -> None:
    abandoned = world.git.push({path_of(orders): world.manifest(orders.name, tag="abandoned")})
    world.until_applied(orders.name, abandoned)
    world.git.git("reset", "-q", "--hard", "HEAD~1")
    path = world.git.clone / path_of(orders)
    path.write_text(world.manifest(orders.name, tag="rewritten"), "utf-8")
    world.git.git("commit", "-qam", "Another history")
    rewritten = world.git.push_head("--force")

    view = world.until_applied(orders.name, rewritten)
    told = world.until_event("HistoryRewritten", rewritten)
    assert (told.severity, abandoned in told.message) == ("warning", True)
    assert "rewritten" in view.manifest
    orders.add(20)
    world.until_all_arrived(orders)
    assert world.until_all_reported(orders.name, orders).counters.rows_read == orders.count()


def test_an_unreachable_repository_stops_nothing_and_is_shown(
    world: World, orders: LiveTable
) -> None:
    before = world.status(orders.name)
    aside = Path(f"{world.git.bare}.aside")
    world.git.bare.rename(aside)
    try:
        world.fleet.until(
            "the trouble is shown", lambda: world.fleet.client.status().source_error is not None
        )
        orders.add(20)
        world.until_all_arrived(orders)
        assert world.status(orders.name).attempt == before.attempt
    finally:
        aside.rename(world.git.bare)
    world.fleet.until(
        "it is reachable again", lambda: world.fleet.client.status().source_error is None
    )
    assert world.events("SourceRecovered")


def test_apply_says_how_to_push_where_it_may_not_push_itself(world: World) -> None:
    files = {"workflows/keeper.yaml": world.manifest("keeper", tag="z")}
    with pytest.raises(NotAllowed) as refused:
        world.fleet.client.apply(ApplyRequest(request=PlanRequest(files=files)))
    assert "git push" in refused.value.problem.fix
    assert world.git.git("ls-remote", str(world.git.bare), "main").startswith(
        world.git.git("rev-parse", "HEAD")
    )
