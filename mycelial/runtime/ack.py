"""The order of acknowledgement, as a ledger that refuses any other order.

committed by the destination -> appended to the journal and fsynced -> told to the source. Pure.
Invariants: I1 (the source forgets last), I2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mycelial.kernel.errors import InternalError
from mycelial.sdk.envelope import Checkpoint, Part, Position, Receipt
from mycelial.sdk.errors import Permanent


@dataclass(frozen=True, slots=True)
class Standing:
    """The highest unit of a part that reached each stage; they never overtake one another."""

    committed: int
    journaled: int
    durable: int
    position: Position | None


class AckLedger:
    """Where each part stands since this worker opened the destination."""

    def __init__(self, positions: Mapping[Part, tuple[int, Position]]) -> None:
        self._parts = {
            part: Standing(seq, seq, seq, position) for part, (seq, position) in positions.items()
        }

    def standing(self, part: Part) -> Standing:
        """Return where `part` stands; zeros when nothing was ever committed."""
        return self._parts.get(part, Standing(0, 0, 0, None))

    def positions(self) -> dict[str, str]:
        """Return the committed position of every part."""
        found = ((part, at.position) for part, at in self._parts.items())
        return {str(part): str(position) for part, position in found if position is not None}

    def next_seq(self, part: Part) -> int:
        """Return the number of the unit to commit next."""
        return self.standing(part).committed + 1

    def committed(self, asked: Checkpoint, receipt: Receipt) -> None:
        """Record a receipt.

        Raises: Permanent when the receipt is for something else than what was asked.
        """
        if (receipt.part, receipt.seq, receipt.position) != (
            asked.part,
            asked.seq,
            asked.position,
        ):
            raise Permanent(
                "MYC-RUN-021",
                f"the destination acknowledged unit {receipt.seq} of part {receipt.part} "
                f"when asked to commit unit {asked.seq} of part {asked.part}",
                fix="this is a defect of the destination plugin; report it with the log",
            )
        at = self.standing(asked.part)
        _require(asked.seq == at.committed + 1, "a unit was committed twice or skipped")
        self._parts[asked.part] = Standing(asked.seq, at.journaled, at.durable, asked.position)

    def journaled(self, part: Part, seq: int) -> None:
        """Record that the journal's line for `seq` is on disk."""
        at = self.standing(part)
        _require(at.journaled < seq <= at.committed, "journaled before it was committed")
        self._parts[part] = Standing(at.committed, seq, at.durable, at.position)

    def durable(self, part: Part, seq: int) -> None:
        """Record that the source was told."""
        at = self.standing(part)
        _require(at.durable < seq <= at.journaled, "the source was told before the journal")
        self._parts[part] = Standing(at.committed, at.journaled, seq, at.position)


def _require(holds: bool, broken: str) -> None:
    if not holds:
        raise InternalError("MYC-RUN-022", f"acknowledgement order violated: {broken}")
