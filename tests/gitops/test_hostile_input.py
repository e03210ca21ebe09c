"""What is handed to git by strangers is refused, and nothing of theirs runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.gitops.bare import BareRepo, NewCommit
from mycelial.gitops.git import GITPYTHON_FLOOR, GitCommand, Limits
from mycelial.gitops.grammar import (
    Protocol,
    check_branch,
    check_path,
    check_sha,
    parse_url,
    path_problem,
    split_author,
)
from mycelial.gitops.remote import Access, RemoteSource, cache_name, remote_environment
from mycelial.kernel.errors import MycelialError, NotAllowed, OperationFailed
from mycelial.kernel.secret import Secret

AUTHOR = "Ada <ada@example.org>"


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("ext::sh -c touch% {marker}", id="ext helper"),
        pytest.param("ext::touch {marker}", id="ext helper short"),
        pytest.param("--upload-pack=touch {marker}", id="long option"),
        pytest.param("-utouch {marker}", id="short option"),
        pytest.param("-oProxyCommand=touch {marker}", id="ssh option"),
        pytest.param("ssh://-oProxyCommand=touch%20{marker}/x", id="ssh host is an option"),
        pytest.param("ssh://git@-oProxyCommand=touch/x", id="ssh host is an option after a user"),
        pytest.param("-oProxyCommand=touch:x", id="scp host is an option"),
        pytest.param("file://{marker}", id="file"),
        pytest.param("file:///etc?x=--upload-pack", id="file with options"),
        pytest.param("fd::17", id="fd helper"),
        pytest.param("http://example.org/x.git", id="plain http"),
        pytest.param("git://example.org/x.git", id="git protocol"),
        pytest.param("ftp://example.org/x.git", id="ftp"),
        pytest.param("https://user:canary@example.org/x.git", id="password"),
        pytest.param("https://example.org/$HOME/x.git", id="variable"),
        pytest.param("https://example.org/$(touch {marker})", id="command substitution"),
        pytest.param("https://example.org/a/../../x", id="climbing"),
        pytest.param("https://example.org/x\n--upload-pack=touch", id="newline"),
        pytest.param("git@example.org:$(touch {marker})", id="scp substitution"),
        pytest.param("/srv/repo.git", id="local path that nobody configured"),
        pytest.param("../repo.git", id="relative path"),
        pytest.param("", id="empty"),
    ],
)
def test_hostile_url_is_refused_and_runs_nothing(tmp_path: Path, template: str) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(NotAllowed) as caught:
        RemoteSource(template.format(marker=marker), cache=tmp_path / "cache").probe(None)
    assert caught.value.code == "MYC-GIT-002"
    assert "canary" not in str(caught.value) + caught.value.problem.fix
    assert not marker.exists()


@pytest.mark.parametrize(
    "text",
    ["ext::touch x", "--upload-pack=touch", "file:///etc", "relative", "//host/share", "/a\nb"],
)
def test_permission_for_local_paths_permits_nothing_else(text: str) -> None:
    with pytest.raises(NotAllowed):
        parse_url(text, allow_local=True)


@pytest.mark.parametrize(
    ("text", "protocol", "host"),
    [
        ("https://example.org/team/repo.git", Protocol.HTTPS, "example.org"),
        ("https://bot@example.org:8443/team/repo", Protocol.HTTPS, "example.org"),
        ("ssh://git@example.org:2222/team/repo.git", Protocol.SSH, "example.org"),
        ("git@example.org:team/repo.git", Protocol.SSH, "example.org"),
    ],
)
def test_ordinary_url_is_accepted(text: str, protocol: Protocol, host: str) -> None:
    url = parse_url(text)
    assert (url.protocol, url.host) == (protocol, host)


@given(st.text(max_size=60))
def test_no_accepted_url_is_an_option_or_a_helper(text: str) -> None:
    try:
        url = parse_url(text, allow_local=True)
    except NotAllowed:
        return
    assert not url.text.startswith("-")
    assert url.protocol is Protocol.LOCAL or "::" not in url.text.partition("/")[0]


@pytest.mark.parametrize(
    "name",
    [
        "--upload-pack=touch marker",
        "-x",
        "a..b",
        "a b",
        "a~1",
        "a^",
        "a:b",
        "a*",
        "@",
        "a@{1}",
        "a.lock",
        "a.lock/b",
        "/a",
        "a/",
        ".a",
        "a//b",
        "a/.b",
        "",
        "a\n",
    ],
)
def test_hostile_branch_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        RemoteSource(
            str(tmp_path), branch=name, cache=tmp_path / "c", access=Access(allow_local=True)
        )
    assert caught.value.code == "MYC-GIT-003"


@given(st.text(alphabet="ab/.@{}-_~^:*?[\\ \n+", min_size=1, max_size=12))
def test_every_accepted_branch_is_one_for_git_too(name: str) -> None:
    try:
        check_branch(name)
    except NotAllowed:
        return
    done = subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "path",
    [
        "../x.yaml",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "./a",
        ".git/config",
        "a/.GIT/hooks/x",
        "a/git~1/x",
        "a/.g\u200cit/x",
        "a\\b",
        "c:x",
        "a\nb",
        "a.",
        "a /b",
        "",
        "x" * 1001,
        "a\udcff",
    ],
)
def test_hostile_path_is_refused_before_anything_is_written(tmp_path: Path, path: str) -> None:
    repo = BareRepo.init(tmp_path / "r.git")
    with pytest.raises(NotAllowed) as caught:
        repo.commit("main", parent=None, change=NewCommit({path: b"x"}, AUTHOR, "m"))
    assert caught.value.code == "MYC-GIT-004"
    assert repo.head("main") is None


@given(st.text(max_size=40))
def test_every_accepted_path_stays_inside(path: str) -> None:
    if path_problem(path) is None:
        assert check_path(path) == path
        assert os.path.normpath(path) == path
        assert not path.startswith("/")


@pytest.mark.parametrize("text", ["HEAD", "--all", "main", "0" * 39, "0" * 41, "", "z" * 40])
def test_only_whole_commit_ids_name_objects(text: str) -> None:
    with pytest.raises(OperationFailed):
        check_sha(text)


@pytest.mark.parametrize(
    "author", ["", "x", "<a@b>", "a\nb <x>", "a <b\n>", "a <b> <c>", "a <b> c"]
)
def test_malformed_author_is_refused(author: str) -> None:
    with pytest.raises(NotAllowed):
        split_author(author)


def test_hooks_of_a_repository_do_not_run(tmp_path: Path) -> None:
    repo = BareRepo.init(tmp_path / "r.git")
    hooks = repo.directory / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-update", "pre-push", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/marker\n")
        (hooks / name).chmod(0o755)
    repo.commit("main", parent=None, change=NewCommit({"a.yaml": b"x"}, AUTHOR, "m"))
    assert not (tmp_path / "marker").exists()


def _push_submodules(git: Any, tmp_path: Path, upstream: Path, url: str) -> RemoteSource:
    work = tmp_path / "work"
    git(tmp_path, "clone", "--quiet", str(upstream), str(work))
    (work / ".gitmodules").write_text(f'[submodule "m"]\n path = m.yaml\n url = {url}\n')
    head = git(work, "rev-parse", "HEAD")
    git(work, "add", ".gitmodules")
    git(work, "update-index", "--add", "--cacheinfo", f"160000,{head},m.yaml")
    git(work, "update-index", "--add", "--cacheinfo", f"160000,{head},vendor/lib")
    git(work, "commit", "--quiet", "--message", "submodules")
    git(work, "push", "--quiet", "origin", "HEAD:main")
    return RemoteSource(str(upstream), cache=tmp_path / "c", access=Access(allow_local=True))


def test_submodules_are_not_fetched(tmp_path: Path, git: Any, upstream: Path) -> None:
    source = _push_submodules(git, tmp_path, upstream, f"ext::touch% {tmp_path}/marker")
    tree = source.tree(source.probe(None).revision)
    assert not tree.complete
    assert [(str(p.where), str(p.severity)) for p in tree.problems] == [
        ("m.yaml", "error"),
        ("vendor/lib", "warning"),
    ]
    assert not (tmp_path / "marker").exists()


def test_objects_that_git_knows_for_an_attack_are_refused_on_arrival(
    tmp_path: Path, git: Any, upstream: Path
) -> None:
    source = _push_submodules(git, tmp_path, upstream, f"--upload-pack=touch {tmp_path}/marker")
    with pytest.raises(OperationFailed) as caught:
        source.probe(None)
    assert (caught.value.code, "gitmodules" in caught.value.problem.what) == ("MYC-GIT-005", True)
    assert not (tmp_path / "marker").exists()


def test_the_configuration_and_environment_of_the_caller_do_not_steer_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    config = tmp_path / "config"
    config.write_text(f"[core]\n hooksPath = {tmp_path}\n fsmonitor = touch {marker}\n")
    for name, value in {
        "GIT_DIR": str(tmp_path / "elsewhere"),
        "GIT_INDEX_FILE": str(tmp_path / "index"),
        "GIT_OBJECT_DIRECTORY": str(tmp_path / "objects"),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_SSH_COMMAND": f"touch {marker}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.hooksPath",
        "GIT_CONFIG_VALUE_0": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    repo = BareRepo.init(tmp_path / "r.git")
    sha = repo.commit("main", parent=None, change=NewCommit({"a.yaml": b"x"}, AUTHOR, "m"))
    assert [entry.path for entry in repo.list_tree(sha)] == ["a.yaml"]
    assert not marker.exists()
    assert not (tmp_path / "objects").exists()


@pytest.mark.parametrize("way", ["global", "system", "count", "parameters"])
def test_no_configuration_but_ours_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (tmp_path / "config").write_text("[log]\n showRoot = false\n")
    variables = {
        "global": {"GIT_CONFIG_GLOBAL": str(tmp_path / "config")},
        "system": {"GIT_CONFIG_SYSTEM": str(tmp_path / "config")},
        "count": {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "log.showRoot",
            "GIT_CONFIG_VALUE_0": "false",
        },
        "parameters": {"GIT_CONFIG_PARAMETERS": "'log.showRoot=false'"},
    }
    for name, value in variables[way].items():
        monkeypatch.setenv(name, value)
    repo = BareRepo.init(tmp_path / "r.git")
    sha = repo.commit("main", parent=None, change=NewCommit({"a.yaml": b"x"}, AUTHOR, "m"))
    assert [info.paths for info in repo.log(sha, limit=1)] == [("a.yaml",)]


@pytest.mark.parametrize("name", ["GIT_SSL_NO_VERIFY", "GIT_WORK_TREE", "GIT_QUARANTINE_PATH"])
def test_a_variable_that_cannot_be_neutralised_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(OperationFailed) as caught:
        BareRepo.init(tmp_path / "r.git")
    assert (caught.value.code, name in caught.value.problem.fix) == ("MYC-GIT-001", True)


def test_ssh_without_known_hosts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAllowed) as caught:
        RemoteSource("git@example.org:team/repo.git", cache=tmp_path)
    assert "known_hosts" in caught.value.problem.fix


def test_ssh_checks_the_host_key_and_reads_no_configuration(tmp_path: Path) -> None:
    url = parse_url("git@example.org:team/repo.git")
    command = remote_environment(url, Access(known_hosts=tmp_path / "my known hosts"))[
        "GIT_SSH_COMMAND"
    ]
    assert command.startswith("ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes ")
    # What ssh makes of it is what counts: ask it.
    shown = subprocess.run(
        ["sh", "-c", f"{command} -G example.org"], capture_output=True, text=True, check=True
    ).stdout
    assert "stricthostkeychecking true" in shown
    assert f"userknownhostsfile {tmp_path}/my known hosts" in shown
    assert "batchmode yes" in shown


def test_credentials_are_bound_to_one_repository_and_stay_out_of_the_command_line() -> None:
    url = parse_url("https://example.org/team/repo.git")
    environment = remote_environment(url, Access(user="bot", password=Secret("canary")))
    assert environment["GIT_CONFIG_KEY_0"] == "http.https://example.org/team/repo.git.extraHeader"
    assert environment["GIT_ALLOW_PROTOCOL"] == "https"


def test_two_repositories_of_one_name_have_two_caches() -> None:
    names = {
        cache_name(project=project, url=f"https://{host}/infra.git")
        for project in ("one", "two")
        for host in ("a.example", "b.example")
    }
    assert len(names) == 4


def test_gitpython_is_patched() -> None:
    from importlib import metadata

    installed = tuple(int(part) for part in metadata.version("gitpython").split(".")[:3])
    assert installed >= GITPYTHON_FLOOR


def test_an_unpatched_gitpython_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mycelial.gitops.git.metadata.version", lambda _name: "3.1.59")
    with pytest.raises(OperationFailed) as caught:
        GitCommand(tmp_path)
    assert caught.value.code == "MYC-GIT-001"


def test_a_pack_beyond_the_limit_ends_the_fetch(tmp_path: Path, git: Any, upstream: Path) -> None:
    work = tmp_path / "work"
    git(tmp_path, "clone", "--quiet", str(upstream), str(work))
    (work / "noise.bin").write_bytes(os.urandom(24_000_000))
    git(work, "add", "noise.bin")
    git(work, "commit", "--quiet", "--message", "noise")
    git(work, "push", "--quiet", "origin", "HEAD:main")
    source = RemoteSource(
        str(upstream),
        cache=tmp_path / "c",
        access=Access(allow_local=True),
        limits=Limits(repository_bytes=1_000_000),
    )
    with pytest.raises(OperationFailed) as caught:
        source.probe(None)
    assert caught.value.code == "MYC-GIT-007"


def test_a_remote_that_does_not_answer_is_left_after_the_timeout(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        source = RemoteSource(
            f"https://127.0.0.1:{port}/x.git", cache=tmp_path / "c", limits=Limits(seconds=0.5)
        )
        with pytest.raises(OperationFailed) as caught:
            source.probe(None)
    assert caught.value.code == "MYC-GIT-006"


def test_commit_beyond_the_limits_is_refused(tmp_path: Path) -> None:
    repo = BareRepo.init(tmp_path / "r.git", limits=Limits(file_bytes=10, commit_bytes=15))
    for files in ({"a.yaml": b"x" * 11}, {"a.yaml": b"x" * 8, "b.yaml": b"x" * 8}):
        with pytest.raises(MycelialError) as caught:
            repo.commit("main", parent=None, change=NewCommit(files, AUTHOR, "m"))
        assert caught.value.code == "MYC-GIT-013"
