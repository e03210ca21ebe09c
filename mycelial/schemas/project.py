"""The kind Project: the root object, in `mycelial.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mycelial.schemas.base import Percent, StrictModel
from mycelial.schemas.metadata import Manifest


class DeleteGuardField(StrictModel):
    """Holds a deletion that would remove more than this at once until it is confirmed."""

    objects: int = Field(default=10, ge=0)
    """At most this many objects."""
    fraction: Percent = Field(default=0.2)
    """At most this share of all objects, once more than two go."""


class ProjectSpec(StrictModel):
    """Settings of the whole tree."""

    uid: str = Field(default="", max_length=128, pattern=r"^[A-Za-z0-9._-]*$")
    """The project's identity: chosen once, never changed. Object uids are derived from it."""
    delete_guard: DeleteGuardField = Field(default_factory=DeleteGuardField)
    """When a deletion has to be confirmed."""
    variables: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")], str] = Field(
        default_factory=dict
    )
    """Texts that manifests use as `${var.name}`; may use each other."""
    incarnations: dict[
        Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]*/[a-z0-9-]+$")],
        Annotated[int, Field(ge=0)],
    ] = Field(default_factory=dict)
    """`Workflow/name` -> how often the name was given up for good (`delete --forget`)."""


class Project(Manifest):
    """The root object: identity, delete guard, variables. One per tree, in `mycelial.yaml`."""

    kind: Literal["Project"]
    spec: ProjectSpec = Field(default_factory=ProjectSpec)
    """Settings."""
