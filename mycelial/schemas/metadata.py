"""What every kind has: envelope and metadata."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mycelial.schemas.base import StrictModel

API_VERSION = "mycelial/v1"

Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        max_length=63,
        json_schema_extra={"examples": ["till-sales"]},
    ),
]
"""Lower-case letters, digits and `-`, at most 63."""


class Moved(StrictModel):
    """A former identity, so that renaming keeps checkpoints."""

    from_: Name | list[Name] = Field(alias="from")
    """The former name, or all former names, newest first."""


class Metadata(StrictModel):
    """Who the object is. Kind and name are unique in a project; the file's path is free."""

    name: Name
    """The object's name: lower-case letters, digits and `-`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Words to select and group by. Changing them restarts nothing."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Free text for people and tools."""
    moved: Moved | None = None
    """Where the object's identity comes from after a rename."""


class Manifest(StrictModel):
    """The envelope of every object."""

    api_version: Literal["mycelial/v1"]
    """Always `mycelial/v1`."""
    kind: str
    """What the object is."""
    metadata: Metadata
    """Name, labels, annotations."""
