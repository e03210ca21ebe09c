"""How a plugin tells the engine what to do about a failure.

PluginError
|- Transient   retry with backoff: network, lock, restart of a server
|  |- Throttled  retry after `retry_after_seconds`
|  |- NotYet     what the manifest names is not there (yet): a table, file, database, folder
|  `- Ambiguous  the commit may or may not have landed: the destination is reopened and asked
|- Permanent   do not retry: the pipeline fails until its spec changes or somebody says retry
|  |- Fenced        a higher (epoch, attempt) has committed: this worker must end (I4)
|  |- PolicyDenied  local policy refuses (I12)
|  |- CheckpointRegressed  destination and journal disagree and the source cannot replay
|  `- LossyType     the destination cannot hold a value or type without loss
`- Interrupted  `interrupt()` made the call return; not a failure

Each carries a Problem: code, what, fix. Driver messages are scrubbed of secrets before they go in.
"""

from __future__ import annotations

from mycelial.kernel.errors import Problem


class PluginError(Exception):
    """A failure that the engine knows how to handle."""

    def __init__(self, code: str, what: str, *, fix: str = "") -> None:
        self.problem = Problem(code=code, what=what, fix=fix)
        super().__init__(f"{code} {what}")


class Transient(PluginError):
    """May succeed when tried again."""


class Throttled(Transient):
    """The other side asks for patience."""

    def __init__(self, code: str, what: str, *, retry_after_seconds: float, fix: str = "") -> None:
        super().__init__(code, what, fix=fix)
        self.retry_after_seconds = retry_after_seconds


class NotYet(Transient):
    """What the manifest names does not exist: in a daemon somebody may still make it, so it is
    tried again; in the foreground somebody is waiting for an answer, so it fails at once."""


class Ambiguous(Transient):
    """A commit was sent and its answer lost."""


class Permanent(PluginError):
    """Will fail again until somebody changes something."""


class Fenced(Permanent):
    """A successor holds the destination (I4)."""


class PolicyDenied(Permanent):
    """The daemon's own policy forbids it (I12)."""


class CheckpointRegressed(Permanent):
    """Resuming would lose or repeat rows; a person decides with `state set`."""


class LossyType(Permanent):
    """The destination cannot hold a type or value as it is."""


class Interrupted(PluginError):
    """The call ended because it was asked to."""

    def __init__(self) -> None:
        super().__init__("MYC-RUN-000", "interrupted")
