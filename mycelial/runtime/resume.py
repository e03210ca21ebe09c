"""From where to go on: what the destination holds against what the journal remembers. Pure.

The destination holds the position when it can store it with the rows; the journal holds it
otherwise. Wherever the two disagree somebody is told: nothing resumes silently.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mycelial.sdk.envelope import Committed, Part, Position
from mycelial.sdk.errors import CheckpointRegressed


class ResumeKind(enum.StrEnum):
    """FRESH: nothing was ever committed. AGREED: both say the same. ADOPT: the destination is
    ahead. JOURNAL: the destination stores no positions. REPLAY: the destination is behind."""

    FRESH = "fresh"
    AGREED = "agreed"
    ADOPT = "adopt"
    JOURNAL = "journal"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Remembered:
    """The journal's last line about a part."""

    seq: int
    position: Position
    rows: int = 0
    ends_run: bool = False


@dataclass(frozen=True, slots=True)
class Resume:
    """The decision for one part. `seq` is the last unit that counts as committed."""

    kind: ResumeKind
    seq: int = 0
    position: Position | None = None
    ends_run: bool = False
    why: str = ""


def decide_resume(
    part: Part,
    committed: Committed | None,
    remembered: Remembered | None,
    *,
    stores_positions: bool,
    replayable: bool,
) -> Resume:
    """Return where to go on reading `part`.

    Raises: CheckpointRegressed when the destination is behind and the source cannot replay.
    """
    if committed is None and remembered is None:
        return Resume(ResumeKind.FRESH)
    if committed is None and remembered is not None and not stores_positions:
        return Resume(ResumeKind.JOURNAL, remembered.seq, remembered.position, remembered.ends_run)
    if committed is not None:
        here = (committed.seq, committed.position, committed.ends_run)
        if remembered is None:
            return Resume(ResumeKind.ADOPT, *here, "the journal knows nothing of this part")
        if committed.seq > remembered.seq:
            ahead = committed.seq - remembered.seq
            return Resume(
                ResumeKind.ADOPT, *here, f"the destination is {ahead} units ahead of the journal"
            )
        if (committed.seq, committed.position) == (remembered.seq, remembered.position):
            return Resume(ResumeKind.AGREED, *here)
    assert remembered is not None
    why = _why_regressed(committed, remembered)
    if not replayable:
        raise CheckpointRegressed(
            "MYC-RUN-011",
            f"part {part}: {why}, and the source cannot read that range again",
            fix="restore the destination, or accept the gap with "
            "`mycelial state set` to the position to go on from",
        )
    if committed is None:
        return Resume(ResumeKind.REPLAY, why=why)
    return Resume(ResumeKind.REPLAY, committed.seq, committed.position, committed.ends_run, why)


def _why_regressed(committed: Committed | None, remembered: Remembered) -> str:
    if committed is None:
        return f"the destination lost its checkpoint, the journal has unit {remembered.seq}"
    if committed.seq == remembered.seq:
        return f"destination and journal name different positions for unit {committed.seq}"
    return f"the destination is at unit {committed.seq}, behind the journal's unit {remembered.seq}"
