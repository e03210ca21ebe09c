"""The memory of a `once` run, so that a worker restarted after the end reads nothing twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mycelial.kernel.files import write_durable
from mycelial.sdk.envelope import Part


@dataclass(frozen=True, slots=True)
class Order:
    """One `once` run: the unit of each part at which it began, and whether it is complete."""

    id: str
    start: Mapping[Part, int] = field(default_factory=dict)
    done: bool = False


def load_order(path: Path) -> Order | None:
    """Return what is remembered; None when there is nothing or it cannot be read.

    Forgetting is safe: the run is then begun again from the checkpoint.
    """
    try:
        data = json.loads(path.read_bytes())
        start = {Part(part): int(seq) for part, seq in data["start"].items()}
        return Order(str(data["id"]), start, bool(data["done"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save_order(path: Path, order: Order) -> None:
    """Remember durably."""
    data = {"id": order.id, "start": dict(order.start), "done": order.done}
    write_durable(path, json.dumps(data).encode())


def parts_to_read(
    start: Mapping[Part, int], standing: Mapping[Part, tuple[int, bool]]
) -> tuple[Part, ...]:
    """Return the parts whose run is not complete. Pure.

    A part is complete when a unit after its start ended a run: reading it again would begin the
    next run and deliver everything twice (I2).
    """
    return tuple(
        part
        for part, (seq, ends_run) in standing.items()
        if not (ends_run and seq > start.get(part, 0))
    )
