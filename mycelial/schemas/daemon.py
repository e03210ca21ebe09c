"""The kind Daemon: what git says about a joined machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mycelial.schemas.base import Size, StrictModel
from mycelial.schemas.metadata import Manifest


class Limits(StrictModel):
    """Caps on what the daemon runs."""

    memory: Size | None = Field(default=None, gt=0)
    """Memory of each pipeline's worker process, such as `2GiB`."""
    pipelines: int | None = Field(default=None, ge=0)
    """How many pipelines may run."""


class DaemonSpec(StrictModel):
    """Limits of the machine. Its labels are `metadata.labels`."""

    limits: Limits = Field(default_factory=Limits)
    """Caps on what the daemon runs."""


class Daemon(Manifest):
    """Labels and limits of a joined machine. Identity comes from joining, not from here."""

    kind: Literal["Daemon"]
    spec: DaemonSpec = Field(default_factory=DaemonSpec)
    """Limits."""
