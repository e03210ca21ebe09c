"""The kind Connection: an endpoint that workflows share, secrets by reference."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mycelial.schemas.base import StrictModel
from mycelial.schemas.metadata import Manifest


class ConnectionSpec(StrictModel):
    """One connector with the fields that it allows to share."""

    # The connector's own key is taken out before validation: its schema comes from the catalog.
    overrides: list[dict[str, Any]] = Field(default_factory=list)
    """Other settings by daemon label: `{selector: "site=lyon", postgres: {host: db.lyon}}`.
    The first that matches is laid over the settings above."""


class Connection(Manifest):
    """An endpoint and its secret references, shared by workflows; may differ by daemon label."""

    kind: Literal["Connection"]
    spec: ConnectionSpec
    """One connector, and overrides."""
