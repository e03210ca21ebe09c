"""A repository elsewhere: fetched into a bare cache, written by push where that is allowed.

Credentials are bound to the one host of the URL and reach git by its environment, never by the
command line. A fetch that fails, in whatever way, leaves the tracked branch where it was (I8).
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mycelial.gitops.bare import BareRepo
from mycelial.gitops.base import BlobId, Commit, CommitInfo, HeadChange, PathChange, Tree
from mycelial.gitops.git import Limits
from mycelial.gitops.grammar import (
    Protocol,
    RemoteUrl,
    check_branch,
    display_url,
    parse_url,
    sha_of,
)
from mycelial.gitops.tracked import TrackedBranch, new_commit
from mycelial.gitops.waking import Wakeup
from mycelial.kernel.clock import Clock, SystemClock
from mycelial.kernel.errors import Conflict, NotAllowed, OperationFailed
from mycelial.kernel.files import make_private_dir
from mycelial.kernel.secret import Secret


@dataclass(frozen=True, slots=True)
class Access:
    """How a remote is reached. Set by the operator, never by a manifest.

    `password` goes with `user` to https (a token is a password). ssh needs `known_hosts`.
    """

    user: str = "git"
    password: Secret | None = None
    ca_file: Path | None = None
    ssh_key: Path | None = None
    known_hosts: Path | None = None
    allow_local: bool = False


class RemoteSource:
    """One branch of a remote repository, polled. `probe` fetches."""

    def __init__(
        self,
        url: str,
        *,
        cache: Path,
        name: str = "remote",
        branch: str = "main",
        access: Access | None = None,
        can_push: bool = False,
        poll_seconds: float = 30.0,
        project: str = "",
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        access = access or Access()
        self.name = name
        self.can_write = can_push
        self._url = parse_url(url, allow_local=access.allow_local)
        self._clock = clock or SystemClock()
        self._environment = remote_environment(self._url, access)
        self._password = access.password
        self._poll_seconds = poll_seconds
        self._next_poll = self._clock.monotonic()
        self._wakeup = Wakeup()
        directory = cache / cache_name(project=project, url=url)
        make_private_dir(cache)
        repo = (
            BareRepo.open(directory, limits=limits, clock=clock)
            if (directory / "HEAD").exists()
            else BareRepo.init(directory, branch=check_branch(branch), limits=limits, clock=clock)
        )
        self._tracked = TrackedBranch(repo, branch)

    def probe(self, since: str | None) -> HeadChange:
        """Fetch the branch and tell its head."""
        try:
            self._fetch()
        finally:
            self._next_poll = self._clock.monotonic() + self._poll_seconds
        return self._tracked.probe(since)

    def _fetch(self) -> None:
        branch = self._tracked.branch
        self._talk(
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--",
            self._url.text,
            f"+refs/heads/{branch}:refs/heads/{branch}",
        )

    def _talk(self, *arguments: str) -> None:
        try:
            self._tracked.repo.run_with_remote(*arguments, environment=self._environment)
        except OperationFailed as error:
            raise self._explained(error) from error

    def _explained(self, error: OperationFailed) -> OperationFailed:
        what = error.problem.what
        if self._password is not None:
            what = self._password.scrub(what)
        shown = display_url(self._url.text)
        if "find remote ref" in what:
            return OperationFailed(
                "MYC-GIT-008",
                f"{shown} has no branch {self._tracked.branch}",
                fix="push the branch again; until then the last good revision stays in force",
            )
        code = error.code
        return OperationFailed(code, f"{shown}: {what}", fix=error.problem.fix)

    def tree(self, revision: str) -> Tree:
        """List the manifests of a revision."""
        return self._tracked.tree(revision)

    def read(self, blobs: Iterable[BlobId]) -> Mapping[BlobId, bytes]:
        """Return the bytes of blobs."""
        return self._tracked.read(blobs)

    def commit(self, change: Commit) -> str:
        """Commit and push to the tracked branch by compare-and-swap on the remote's own head."""
        if not self.can_write:
            raise self._push_refused(change)
        parent = sha_of(change.parent)
        repo, branch = self._tracked.repo, self._tracked.branch
        sha = repo.build(parent=parent, change=new_commit(change))
        if sha == parent:
            return change.parent
        self._push(sha, expected=parent)
        # The next fetch would say the same; a fetch that came first has already moved us there.
        if repo.head(branch) == parent:
            repo.move(branch, new=sha, old=parent)
        self.wake()
        return self._tracked.revision(sha)

    def _push(self, sha: str, *, expected: str) -> None:
        branch = self._tracked.branch
        try:
            self._talk(
                "push",
                "--quiet",
                "--no-verify",
                "--no-follow-tags",
                "--recurse-submodules=no",
                f"--force-with-lease=refs/heads/{branch}:{expected}",
                "--",
                self._url.text,
                f"{sha}:refs/heads/{branch}",
            )
        except OperationFailed as error:
            what = error.problem.what
            if any(sign in what for sign in ("stale info", "fetch first", "cannot lock ref")):
                raise Conflict(
                    "MYC-GIT-010",
                    f"{branch} of {display_url(self._url.text)} has moved on",
                    fix="plan again on the new head, and retry",
                ) from error
            if "[remote rejected]" in what:
                raise NotAllowed(
                    "MYC-GIT-011",
                    f"the remote refuses a push to {branch}: {what}",
                    fix="push to another branch and open a merge request",
                ) from error
            raise

    def _push_refused(self, change: Commit) -> NotAllowed:
        shown, branch = shlex.quote(display_url(self._url.text)), self._tracked.branch
        paths = " ".join(shlex.quote(path) for path in sorted(change.files))
        subject = shlex.quote(change.message.partition("\n")[0])
        commands = (
            f"git clone --branch {branch} {shown} manifests && cd manifests",
            f"# make the change to: {paths}",
            f"git add --all -- {paths}",
            f"git commit -m {subject}",
            f"git push origin HEAD:{branch}",
        )
        return NotAllowed(
            "MYC-GIT-011",
            f"this server may read {display_url(self._url.text)}, and not push to it",
            fix="commit the change yourself:\n" + "\n".join(commands),
        )

    def history(self, *, limit: int, path: str | None = None) -> tuple[CommitInfo, ...]:
        """Return commits newest first, as of the last fetch."""
        return self._tracked.history(limit=limit, path=path)

    def describe(self, revision: str) -> CommitInfo:
        """Return one commit."""
        return self._tracked.describe(revision)

    def changes(self, old: str, new: str) -> tuple[PathChange, ...]:
        """Return what differs between two revisions."""
        return self._tracked.changes(old, new)

    def wait(self, timeout_seconds: float) -> bool:
        """Return when woken or when the next poll is due, whichever comes first."""
        left = self._next_poll - self._clock.monotonic()
        return self._wakeup.wait(min(timeout_seconds, left)) or left <= timeout_seconds

    def wake(self) -> None:
        """Make `wait` return."""
        self._wakeup.wake()

    def maintain(self) -> None:
        """Gather fetched packs. Slow; call it rarely, from a thread."""
        self._tracked.repo.pack()

    def close(self) -> None:
        """Release a waiter; no process or connection is held between calls."""
        self.wake()


def cache_name(*, project: str, url: str) -> str:
    """Return the cache's folder: two repositories of the same name never share one."""
    return hashlib.sha256(f"{project}\0{url}".encode()).hexdigest()[:40] + ".git"


def remote_environment(url: RemoteUrl, access: Access) -> dict[str, str]:
    """Return what git's environment needs to reach `url`, and nothing else.

    Raises: NotAllowed (MYC-GIT-002) when ssh has no known_hosts to check the server against.
    """
    environment = {"GIT_ALLOW_PROTOCOL": str(url.protocol)}
    if url.protocol is Protocol.SSH:
        environment["GIT_SSH_COMMAND"] = _ssh_command(access)
    if url.protocol is Protocol.HTTPS:
        if access.ca_file is not None:
            environment["GIT_SSL_CAINFO"] = str(access.ca_file)  # it outranks the setting
        settings = _https_settings(url, access)
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (key, value) in enumerate(settings):
            environment[f"GIT_CONFIG_KEY_{number}"] = key
            environment[f"GIT_CONFIG_VALUE_{number}"] = value
    return environment


def _https_settings(url: RemoteUrl, access: Access) -> list[tuple[str, str]]:
    settings = []
    if access.password is not None:
        pair = f"{access.user}:{access.password.reveal()}"
        header = "Authorization: Basic " + base64.b64encode(pair.encode()).decode()
        settings.append((f"http.{url.text}.extraHeader", header))
    return settings


def _ssh_command(access: Access) -> str:
    if access.known_hosts is None:
        raise NotAllowed(
            "MYC-GIT-002",
            "an ssh repository needs the host's public key beforehand",
            fix="put the line of `ssh-keyscan HOST`, checked by another way, into a known_hosts "
            "file and name it in the source's configuration",
        )
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f'UserKnownHostsFile="{access.known_hosts.as_posix()}"',
        "GlobalKnownHostsFile=none",
        "UpdateHostKeys=no",
        "ForwardAgent=no",
        "PermitLocalCommand=no",
        "ConnectTimeout=15",
    ]
    if access.ssh_key is not None:
        options += ["IdentitiesOnly=yes", f'IdentityFile="{access.ssh_key.as_posix()}"']
    parts = ["ssh", "-F", "none"]
    for option in options:
        parts += ["-o", option]
    return shlex.join(parts)
