"""The kind Workflow: where data comes from, what happens to it, where it goes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from mycelial.schemas.base import Duration, Size, StrictModel
from mycelial.schemas.metadata import Manifest, Name
from mycelial.schemas.schedule import cron_schedule, parse_schedule

Connector = dict[str, Any]


def _schedule_text(text: str) -> str:
    parse_schedule(text)
    return text


ScheduleText = Annotated[
    str,
    AfterValidator(_schedule_text),
    Field(json_schema_extra={"examples": ["once", "continuous", "every 30s", "onChange"]}),
]


class CronSchedule(StrictModel):
    """Runs at the times of a crontab line."""

    cron: str
    """Five fields: minute, hour, day, month, weekday (0 and 7 are Sunday)."""
    timezone: str = "UTC"
    """Name of the time zone, such as `Europe/Lisbon`."""

    @model_validator(mode="after")
    def _is_a_timetable(self) -> CronSchedule:
        cron_schedule(self.cron, self.timezone)
        return self


class Polling(StrictModel):
    """How a continuous pipeline waits."""

    poll: Duration = Field(default=1.0, gt=0)
    """How long to wait after having caught up."""


class ContinuousSchedule(StrictModel):
    """Follows the source for ever."""

    continuous: Polling
    """How to wait for more."""


def _schedule_form(value: Any) -> str:
    if not isinstance(value, dict):
        return "<text>"
    return "<ContinuousSchedule>" if "continuous" in value else "<CronSchedule>"


ScheduleField = Annotated[
    Annotated[ScheduleText, Tag("<text>")]
    | Annotated[CronSchedule, Tag("<CronSchedule>")]
    | Annotated[ContinuousSchedule, Tag("<ContinuousSchedule>")],
    Discriminator(_schedule_form),
]


class Unit(StrictModel):
    """What commits together; closes at whichever bound comes first."""

    rows: int | None = Field(default=None, gt=0)
    """At most this many rows."""
    bytes: Size | None = Field(default=None, gt=0)
    """At most this many bytes, such as `16MiB`."""
    period: Duration | None = Field(default=None, gt=0)
    """At most this long, such as `1s`."""


class DeliveryField(StrictModel):
    """The promise about every row, and the bounds of a commit."""

    guarantee: Literal["auto", "exactly-once", "at-least-once"] = "auto"
    """`auto` takes the best that source and destination can give; `exactly-once` refuses less."""
    unit: Unit = Field(default_factory=Unit)
    """Bounds of a commit; what is not given is chosen by the destination."""
    queue: Size = Field(default=8 * 1024 * 1024, gt=0)
    """How many bytes may wait between reading and writing."""
    allow_lossy: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Columns whose values may lose precision or range on the way; all others are refused."""


class RetryField(StrictModel):
    """What to do about transient failures."""

    up_to: Duration = Field(default=300.0, gt=0)
    """How long to retry before the pipeline is shown as Stalled (it keeps trying, slowly)."""


class OnError(StrictModel):
    """What to do about failures."""

    retry: RetryField = Field(default_factory=RetryField)
    """Transient failures: network, locks, restarts."""


class Rate(StrictModel):
    """A speed limit."""

    rows: float = Field(gt=0)
    """Rows per second."""


class Deletion(StrictModel):
    """What a daemon does when the workflow is removed from git."""

    policy: Literal["drain", "stop", "orphan"] = "drain"
    """`drain` finishes what is in flight, `stop` ends now, `orphan` lets it run on unmanaged."""
    deadline: Duration = Field(default=60.0, ge=0)
    """How long draining may take."""


class WorkflowSpec(StrictModel):
    """Where it runs, when, and what it moves."""

    daemon: Name | None = None
    """The one daemon that runs it."""
    selector: str | None = Field(default=None, min_length=1)
    """Runs on daemons whose labels match, such as `site, role=till`."""
    placement: Literal["every", "one"] | None = None
    """With a selector: on every daemon that matches (the default) or on one of them."""
    schedule: ScheduleField | None = None
    """`once`, `continuous`, `every 30s`, `onChange`, or cron. Without it: `continuous` when the
    source has a cursor or follows by nature, else `once`."""
    source: Connector
    """One connector and its configuration, such as `{sqlite: {path: shop.db, table: orders}}`."""
    transforms: list[dict[str, Any]] = Field(default_factory=list)
    """Steps in order, each one transform and its configuration, with an optional `name`."""
    destination: Connector
    """One connector and its configuration."""
    delivery: DeliveryField = Field(default_factory=DeliveryField)
    """The promise about every row."""
    on_error: OnError = Field(default_factory=OnError)
    """What to do about failures."""
    rate: Rate | None = None
    """A speed limit."""
    deletion: Deletion = Field(default_factory=Deletion)
    """What happens when the workflow is removed."""


class Workflow(Manifest):
    """Where data comes from, what happens to it, where it goes, on which daemons and when."""

    kind: Literal["Workflow"]
    spec: WorkflowSpec
    """What to do."""
