"""What a (source, transforms, destination) can promise, and why. Pure; printed in every plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mycelial.sdk.envelope import DestinationPlan, SourcePlan
from mycelial.sdk.errors import Permanent

Level = Literal["exactly-once", "at-least-once"]
Wish = Literal["auto", "exactly-once", "at-least-once"]


@dataclass(frozen=True, slots=True)
class Guarantee:
    """The promise and the sentence that explains it."""

    level: Level
    reason: str


def guarantee_of(
    source: SourcePlan, determinism: Iterable[str], destination: DestinationPlan
) -> Guarantee:
    """Return the best promise that these three can keep together."""
    if not destination.exactly_once:
        return Guarantee(
            "at-least-once",
            "the destination cannot store the position in the same transaction as the rows",
        )
    if not source.replayable and not source.prunes_on_ack:
        return Guarantee(
            "at-least-once",
            "the source can neither read a range again nor keep it until it is acknowledged",
        )
    if "external" in determinism:
        return Guarantee(
            "at-least-once",
            "a transform calls something outside, which a replay would call again",
        )
    return Guarantee(
        "exactly-once", "the position is stored with the rows in the destination's transaction"
    )


def require_wish(found: Guarantee, wish: Wish) -> None:
    """Refuse to run on less than the manifest asks for.

    Raises: Permanent, before any row moves.
    """
    if wish == "exactly-once" and found.level != "exactly-once":
        raise Permanent(
            "MYC-RUN-010",
            f"delivery.guarantee is exactly-once, but {found.reason}",
            fix="use another source, transform or destination, or ask for `guarantee: auto`",
        )
