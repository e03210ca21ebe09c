"""Plugins on files that survive kill -9, and the composition root of workers that know them.

feed: rows of a SQLite table, incremental by id, replayable; with `prunes` it deletes what it was
told is durable; with `snapshot` it delivers whole runs. ledger: rows, checkpoint and fence in one
SQLite transaction, with commits that can be made ambiguous.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mycelial.runtime.launcher import control_line
from mycelial.runtime.pipelog import tail
from mycelial.runtime.ports import Control, WorkerMessage, WorkerRequest
from mycelial.schemas.codec import decode
from mycelial.schemas.desired import Delivery, PipelineSpec, PluginUse, Retry, Schedule
from mycelial.schemas.wire import Fence
from mycelial.sdk.envelope import (
    BarrierKind,
    Column,
    Committed,
    DestinationPlan,
    Envelope,
    FenceToken,
    LossyEdge,
    Output,
    Part,
    Position,
    Receipt,
    Reject,
    SourcePlan,
    StreamSchema,
)
from mycelial.sdk.errors import Ambiguous, Fenced, Interrupted, NotYet, Transient
from mycelial.sdk.plugin import Loader, PluginSpec
from mycelial.sdk.registry import Registry

SCHEMA = StreamSchema("rows", (Column("id", "int64", False), Column("value", "utf8")), ("id",))
ZERO = Part("0")


@dataclass(frozen=True)
class Rows:
    """Stands for a record batch."""

    values: tuple

    @property
    def num_rows(self):
        return len(self.values)

    @property
    def nbytes(self):
        return 16 * len(self.values)


class Feed:
    def __init__(self, settings):
        self.s = dict(settings)
        self.stop = threading.Event()

    def plan(self, ctx):
        if self.s.get("hang"):
            threading.Event().wait(60)
        if self.s.get("appears") and not Path(self.s["appears"]).exists():
            raise NotYet("MYC-TEST-005", "no such table", fix="create it")
        return SourcePlan(
            streams=(SCHEMA,),
            parts=tuple(Part(part) for part in self.s.get("parts", ["0"])),
            replayable=not self.s.get("prunes") and self.s.get("replayable", True),
            resumable=self.s.get("resumable", True),
            prunes_on_ack=bool(self.s.get("prunes")),
            incremental=not self.s.get("snapshot"),
            endless=bool(self.s.get("endless")),
        )

    def lifecycle(self, ctx, event, old, new):
        with contextlib.closing(self._db()) as db, db:
            db.execute("create table if not exists told (what)")
            db.execute("insert into told values (?)", (f"{event}",))

    def _db(self):
        return sqlite3.connect(self.s["path"], timeout=20, check_same_thread=False)

    def open(self, ctx):
        self.ctx = ctx
        if self.s.get("fail_open") and not Path(self.s["fail_open"]).exists():
            Path(self.s["fail_open"]).touch()
            raise Transient("MYC-TEST-001", "not yet")
        if self.s.get("bug"):
            raise ValueError("a bug in the plugin, pw=hunter2")
        self.db = self._db()

    def read(self, part, resume, until=None):
        at = json.loads(resume) if resume else {"id": 0}
        snapshot = self.s.get("snapshot")
        if snapshot and (at.get("end") or not resume):
            at = {"id": 0}
            yield Envelope(part, 0, json.dumps(at), "rows", barrier=BarrierKind.RUN_START)
        limit = min(self.s.get("batch", 5), self.ctx.limits.batch_rows)
        while True:
            if self.stop.is_set():
                raise Interrupted
            found = self.db.execute(
                "select id, value from rows where id > ? order by id limit ?", (at["id"], limit)
            ).fetchall()
            if not found:
                if self.s.get("endless"):
                    yield Envelope(part, 0, json.dumps(at), "rows", barrier=BarrierKind.FLUSH)
                    if self.stop.wait(self.s.get("idle", 0.05)):
                        raise Interrupted
                    continue
                break
            at = {"id": found[-1][0]}
            rows = Rows(tuple(found))
            yield Envelope(part, 0, json.dumps(at), "rows", batch=rows, nbytes=rows.nbytes)
        kind = BarrierKind.RUN_END if snapshot else BarrierKind.FLUSH
        end = {**at, "end": True} if snapshot else at
        yield Envelope(part, 0, json.dumps(end), "rows", barrier=kind)

    def durable(self, part, position):
        if self.s.get("prunes"):
            with self._db() as db:
                db.execute("delete from rows where id <= ?", (json.loads(position)["id"],))
                db.execute("insert into acked values (?)", (position,))

    def interrupt(self):
        self.stop.set()

    def close(self):
        if hasattr(self, "db"):
            self.db.close()


class Ledger:
    def __init__(self, settings):
        self.s = dict(settings)
        self.stop = threading.Event()

    def plan(self, ctx, streams):
        lossy = [c for c in streams[0].columns if c.name == self.s.get("lossy")]
        return DestinationPlan(
            mode="append",
            exactly_once=self.s.get("exactly_once", True),
            target="ledger",
            lossy=tuple(LossyEdge(c.name, c.type, "float64", "digits") for c in lossy),
        )

    def open(self, ctx, scope, fence):
        self.scope, self.fence = scope, fence
        self.db = sqlite3.connect(self.s["path"], timeout=20, isolation_level=None)
        self.db.execute("pragma synchronous=full")
        self.db.execute("create table if not exists rows (id, value)")
        self.db.execute(
            "create table if not exists mark (scope, part, epoch, attempt, seq, position, total,"
            " ends_run, primary key (scope, part))"
        )
        self.db.execute("create table if not exists fence (scope primary key, epoch, attempt)")
        self.db.execute("begin immediate")
        self._check_fence()
        self.db.execute(
            "insert or replace into fence values (?, ?, ?)", (scope, fence.epoch, fence.attempt)
        )
        self.db.execute("commit")
        self.staged = []
        found = self.db.execute("select * from mark where scope = ?", (scope,)).fetchall()
        return {
            Part(p): Committed(seq, Position(pos), FenceToken(e, a), total, bool(ends))
            for _, p, e, a, seq, pos, total, ends in found
        }

    def _check_fence(self):
        row = self.db.execute(
            "select epoch, attempt from fence where scope = ?", (self.scope,)
        ).fetchone()
        if row and tuple(row) > (self.fence.epoch, self.fence.attempt):
            self.db.execute("rollback")
            raise Fenced("MYC-TEST-002", f"fence {tuple(row)} is higher")

    def migrate(self, streams):
        pass

    def write(self, envelope):
        if envelope.batch is not None:
            for index, (_, value) in enumerate(envelope.batch.values):
                if value == "bad":
                    return (Reject(index, "MYC-TEST-003", "value is bad"),)
            self.staged.extend(envelope.batch.values)
        return ()

    def commit(self, checkpoint):
        gate = self.s.get("gate")
        if gate:
            Path(gate + ".in").touch()
            while not Path(gate).exists():
                threading.Event().wait(0.01)
        mode = self.s.get("ambiguous")
        once = Path(self.s["path"] + ".ambiguous")
        if mode == "lost" and checkpoint.seq == 2 and not once.exists():
            once.touch()
            raise Ambiguous("MYC-TEST-004", "connection lost")
        self.db.execute("begin immediate")
        self._check_fence()
        self.db.executemany("insert into rows values (?, ?)", self.staged)
        self._mark(checkpoint)
        self.db.execute("commit")
        self.staged = []
        if mode == "landed" and checkpoint.seq == 2 and not once.exists():
            once.touch()
            raise Ambiguous("MYC-TEST-004", "connection lost")
        return Receipt(checkpoint.part, checkpoint.seq, checkpoint.position, checkpoint.rows)

    def _mark(self, c):
        if self.s.get("exactly_once", True):
            self.db.execute(
                "insert or replace into mark values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    c.scope,
                    c.part,
                    c.fence.epoch,
                    c.fence.attempt,
                    c.seq,
                    c.position,
                    c.rows,
                    c.ends_run,
                ),
            )

    def set_position(self, checkpoint):
        self._mark(checkpoint)

    def abort(self):
        self.staged = []

    def interrupt(self):
        self.stop.set()

    def close(self):
        if hasattr(self, "db"):
            self.db.close()


class Upper:
    determinism = "pure"

    def __init__(self, settings):
        pass

    def plan(self, streams):
        return streams

    def open(self, ctx):
        pass

    def apply(self, envelope):
        """Split every batch in two, the first half still at the old position."""
        values = envelope.batch.values
        half = len(values) // 2
        for chunk in (values[:half], values[half:]):
            rows = Rows(tuple((i, v.upper()) for i, v in chunk))
            yield Output(Envelope(envelope.part, 0, envelope.end, "rows", batch=rows))

    def flush(self, envelope):
        yield Output(envelope)

    def close(self):
        pass


def _config():
    raise AssertionError("a worker never asks for the pydantic model")


PLUGINS = (
    PluginSpec("feed", "", source=Loader(_config, Feed)),
    PluginSpec("ledger", "", destination=Loader(_config, Ledger)),
    PluginSpec("upper", "", transform=Loader(_config, Upper)),
)


def registry_of(_names):
    return Registry(PLUGINS)


# --- what tests use ----------------------------------------------------------------------


class World:
    """A source and a destination on disk, and requests to move one to the other."""

    def __init__(self, directory: Path, rows: int = 50):
        self.directory = directory
        self.source, self.target = directory / "source.db", directory / "target.db"
        self.state = directory / "state"
        self.state.mkdir(exist_ok=True)
        self.made = Counter((i, f"v{i}") for i in range(1, rows + 1))
        with contextlib.closing(sqlite3.connect(self.source)) as db, db:
            db.execute("create table rows (id integer primary key, value)")
            db.execute("create table acked (position)")
            db.executemany("insert into rows values (?, ?)", sorted(self.made))

    def spec(self, *, source=None, target=None, transforms=(), **fields):
        fields.setdefault("schedule", Schedule("once"))
        fields.setdefault("delivery", Delivery(unit_rows=10, unit_seconds=60.0))
        fields.setdefault("retry", Retry(5.0))
        return PipelineSpec(
            workflow="copy",
            uid="sha256:" + "a" * 64,
            scope="scope-1",
            source=PluginUse("feed", {"path": str(self.source), **(source or {})}),
            destination=PluginUse("ledger", {"path": str(self.target), **(target or {})}),
            transforms=tuple(PluginUse(name, {}) for name in transforms),
            **fields,
        )

    def request(self, spec=None, *, attempt=1, epoch=1, job="run", order="o1", **fields):
        return WorkerRequest(
            job=job,
            spec=spec or self.spec(),
            fence=Fence(epoch, attempt),
            state_dir=str(self.state),
            log_path=str(self.state / "log"),
            order=order,
            **fields,
        )

    def add(self, ids):
        with contextlib.closing(sqlite3.connect(self.source, timeout=20)) as db, db:
            for i in ids:
                self.made[(i, f"v{i}")] += 1
                db.execute("insert into rows values (?, ?)", (i, f"v{i}"))

    def arrived(self) -> Counter:
        if not self.target.exists():
            return Counter()
        with contextlib.closing(sqlite3.connect(self.target, timeout=20)) as db:
            return Counter(map(tuple, db.execute("select id, value from rows")))

    def committed_id(self) -> int:
        if not self.target.exists():
            return 0
        with contextlib.closing(sqlite3.connect(self.target, timeout=20)) as db:
            try:
                row = db.execute("select position from mark").fetchone()
            except sqlite3.OperationalError:
                return 0
            return json.loads(row[0])["id"] if row else 0

    def acked_ids(self) -> list[int]:
        with contextlib.closing(sqlite3.connect(self.source, timeout=20)) as db:
            return [json.loads(p)["id"] for (p,) in db.execute("select position from acked")]

    def left_ids(self) -> set[int]:
        with contextlib.closing(sqlite3.connect(self.source, timeout=20)) as db:
            return {i for (i,) in db.execute("select id from rows")}


class Harness:
    """Answers SocketFaults: kills the process at one step, or holds it there."""

    def __init__(self, path: Path):
        self.path = path
        self.release = threading.Event()
        self.reset()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self):
        self.release.set()  # nobody stays held from the test before
        self.kill_at: tuple[str, int] | None = None
        self.hold_at: tuple[str, int] | None = None
        self.held, self.release = threading.Event(), threading.Event()
        self.killed = threading.Event()
        self.steps: list[str] = []

    @property
    def environment(self):
        return {"MYCELIAL_FAULTS": f"unix:{self.path}"}

    def close(self):
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self):
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link):
        with link, contextlib.suppress(OSError), link.makefile("rb") as lines:
            for line in lines:
                step, n, pid = line.decode().split()
                self.steps.append(step)
                if self.kill_at == (step, int(n)):
                    self.kill_at = None
                    os.kill(int(pid), 9)
                    self.killed.set()
                    return
                if self.hold_at == (step, int(n)):
                    self.hold_at = None
                    self.held.set()
                    self.release.wait(30)
                link.sendall(b"go\n")


class Live:
    """A worker and its messages."""

    def __init__(self, request, launcher):
        self.worker = launcher.start(request)
        self.pipe = os.fdopen(os.dup(self.worker.out_fd), "rb")
        self.seen = []

    def until(self, wanted):
        for line in self.pipe:
            message = decode(WorkerMessage, json.loads(line))
            self.seen.append(message)
            if wanted(message):
                return message
        raise AssertionError(f"the worker ended; it said {self.seen[-3:]}")

    def state(self, state):
        return self.until(lambda m: m.status is not None and m.status.state is state).status

    def send(self, *args, **fields):
        self.worker.send(control_line(Control(*args, **fields)))

    def end(self):
        self.pipe.read()
        return self.worker.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.worker.kill()
        self.worker.wait(5)
        self.pipe.close()
        self.worker.close()


def endless(world, **fields):
    return world.spec(source={"endless": True}, schedule=Schedule("continuous"), **fields)


def events(world):
    lines, _ = tail(world.state / "log", 1000)
    return [line.get("reason") for line in lines if line.get("kind") == "event"]


def worker_argv():
    return (sys.executable, __file__)


def zygote_argv():
    return (sys.executable, __file__, "--zygote")


def _main():
    from mycelial.cli.worker import serve, take_stdio

    def child(in_fd, out_fd):
        return serve(in_fd, out_fd, registry_of)

    if "--zygote" in sys.argv:
        from mycelial.runtime import zygote

        zygote.preload()
        zygote.serve(socket.socket(fileno=int(sys.argv[-1])), child)
        os._exit(0)
    os._exit(child(*take_stdio()))


if __name__ == "__main__":
    _main()
