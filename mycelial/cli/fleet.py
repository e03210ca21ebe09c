"""Verbs of the processes: server, and daemon token, join, run, revoke."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mycelial.cli import render
from mycelial.cli.session import Session, data_home
from mycelial.kernel.clock import rfc3339
from mycelial.kernel.errors import UsageError


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the control plane keeps its state.",
)
@click.option("--listen", default="127.0.0.1:7777", show_default=True, help="For people and CLI.")
@click.option("--daemon-listen", default="127.0.0.1:7443", show_default=True, help="For daemons.")
@click.option(
    "--advertise",
    multiple=True,
    metavar="NAME",
    help="Names or addresses by which daemons reach this host; repeatable.",
)
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--repository",
    default="",
    metavar="URL",
    help="A remote repository to follow instead of the embedded one.",
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder to follow instead of a repository, for development.",
)
@click.option("--branch", default="main", show_default=True)
@click.option("--poll", default="30s", show_default=True, help="How often a remote is asked.")
@click.option("--push", is_flag=True, help="Let apply push to the remote's tracked branch.")
@click.option("--known-hosts", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--seed",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Manifests for the first commit of an empty embedded repository.",
)
def server(
    data: Path | None,
    listen: str,
    daemon_listen: str,
    advertise: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    repository: str,
    folder: Path | None,
    branch: str,
    poll: str,
    push: bool,
    known_hosts: Path | None,
    seed: Path | None,
) -> None:
    """Run the control plane, with its own repository unless told otherwise."""
    from mycelial.cli.wire_up import ServerOptions, run_server
    from mycelial.schemas.base import parse_duration

    if repository and folder:
        raise click.UsageError("--repository and --folder exclude each other")
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    try:
        poll_seconds = parse_duration(poll)
    except ValueError as error:
        raise UsageError("MYC-CLI-011", str(error)) from error
    run_server(
        ServerOptions(
            data=(data or data_home() / "server").resolve(),
            listen=parse_address(listen),
            daemon_listen=parse_address(daemon_listen),
            advertise=advertise,
            tls_cert=tls_cert,
            tls_key=tls_key,
            repository=repository,
            folder=folder,
            branch=branch,
            poll_seconds=poll_seconds,
            push=push,
            known_hosts=known_hosts,
            seed=seed,
        )
    )


def parse_address(text: str) -> tuple[str, int]:
    """Split `127.0.0.1:7777` or `[::1]:7777`. Raises: UsageError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise UsageError(
            "MYC-CLI-050",
            f"{text!r} is not an address",
            fix="write HOST:PORT, such as 127.0.0.1:7777",
        )
    return host.strip("[]"), int(port)


@click.group()
def daemon() -> None:
    """Join machines and run their daemons."""


@daemon.command()
@click.option("--name", required=True, help="The name the machine will have.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE")
@click.option("--ttl", default="24h", show_default=True)
@render.output_option("text", "json")
@click.pass_obj
def token(session: Session, name: str, labels: tuple[str, ...], ttl: str, output: str) -> None:
    """Make a single-use join token and print the command that uses it."""
    from mycelial.schemas.base import parse_duration

    try:
        seconds = parse_duration(ttl)
    except ValueError as error:
        raise UsageError("MYC-CLI-011", str(error)) from error
    reply = session.client.create_token(name=name, labels=parse_labels(labels), ttl_seconds=seconds)
    if output == "json":
        render.show_json(reply)
        return
    click.echo(f"On the machine, before {rfc3339(reply.expires_at)}:", err=True)
    click.echo(
        reply.command
        or f"mycelial daemon join --name {shlex.quote(name)} --token {shlex.quote(reply.token)}"
    )


def parse_labels(texts: tuple[str, ...]) -> dict[str, str]:
    """Return labels of `key=value` words. Raises: UsageError."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key and value):
            raise UsageError(
                "MYC-CLI-051", f"{text!r} is not a label", fix="write KEY=VALUE, such as role=till"
            )
        labels[key] = value
    return labels


state_dir_option = click.option(
    "--state",
    "state_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the daemon keeps its identity and state.",
)


@daemon.command()
@click.option("--server", "server_url", required=True, metavar="URL")
@click.option("--token", "join_token", required=True, envvar="MYCELIAL_JOIN_TOKEN")
@click.option("--name", required=True)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE")
@state_dir_option
def join(
    server_url: str, join_token: str, name: str, labels: tuple[str, ...], state_dir: Path | None
) -> None:
    """Give this machine its identity: a key that never leaves it, and a certificate."""
    from mycelial.cli.wire_up import join_daemon

    directory = (state_dir or data_home() / "daemon").resolve()
    join_daemon(server_url, join_token, name=name, labels=parse_labels(labels), state_dir=directory)
    click.echo(f"joined {server_url} as {name}; start it: mycelial daemon run --state {directory}")


@daemon.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="config.toml; optional once joined.",
)
@state_dir_option
def run(config_file: Path | None, state_dir: Path | None) -> None:
    """Run what the control plane assigned, also while it is away."""
    from mycelial.cli.wire_up import run_daemon

    run_daemon(config_file=config_file, state_dir=state_dir)


@daemon.command()
@click.argument("name")
@click.pass_obj
def revoke(session: Session, name: str) -> None:
    """Refuse a daemon's certificate from now on and cut its connections."""
    session.client.revoke(name)
    click.echo(f"revoked {name}; its name is free again", err=True)
