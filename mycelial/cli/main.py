"""`mycelial`: the verbs and the exit codes. Imports nothing but click until a verb is called."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from mycelial import __version__
from mycelial.kernel.errors import ExitCode, MycelialError


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb lives, and the line that `--help` shows without importing it."""

    module: str
    attribute: str
    section: str
    help: str


VERBS: dict[str, Verb] = {
    "init": Verb("author", "init", "Author", "Start a project in a folder."),
    "validate": Verb("author", "validate", "Author", "Check manifests, offline."),
    "schema": Verb("author", "schema", "Author", "Print the JSON Schema for editors and CI."),
    "explain": Verb("author", "explain", "Author", "Say what a field, kind or connector means."),
    "render": Verb("author", "render", "Author", "Show a workflow as one daemon would run it."),
    "run": Verb("run", "run", "Author", "Run one workflow here, without a control plane."),
    "plan": Verb("change", "plan", "Change", "Show what a change would do, per daemon."),
    "diff": Verb("change", "diff", "Change", "Show how files differ from the repository."),
    "apply": Verb("change", "apply", "Change", "Commit manifests to the repository."),
    "delete": Verb("change", "delete", "Change", "Commit the removal of objects."),
    "rollback": Verb("change", "rollback", "Change", "Commit the reversal of a revision."),
    "state": Verb("state", "state", "Change", "Read or set the positions of a workflow."),
    "get": Verb("look", "get", "Look", "List objects and how they are."),
    "describe": Verb("look", "describe", "Look", "Everything about one object, and what to do."),
    "status": Verb("look", "status", "Look", "The fleet on one screen."),
    "events": Verb("look", "events", "Look", "What happened, newest last."),
    "logs": Verb("look", "logs", "Look", "The log of a workflow's pipelines."),
    "history": Verb("look", "history", "Look", "Commits and what became of them."),
    "wait": Verb("look", "wait", "Look", "Block until an object is as asked."),
    "server": Verb("fleet", "server", "Fleet", "Run the control plane."),
    "daemon": Verb("fleet", "daemon", "Fleet", "Join machines and run their daemons."),
    "demo": Verb("demo", "demo", "Fleet", "See it all work on this machine."),
    "completion": Verb("shell", "completion", "Fleet", "Print the completion script of a shell."),
}


class LazyGroup(click.Group):
    """A group that knows its verbs' names and help without importing their modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        module = importlib.import_module(f"mycelial.cli.{verb.module}")
        command: click.Command = getattr(module, verb.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or fail with the nearest name."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            ctx.fail(f'There is no verb "{args[0]}".{hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs by section."""
        for section in dict.fromkeys(verb.section for verb in VERBS.values()):
            rows = [(name, verb.help) for name, verb in VERBS.items() if verb.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message="mycelial %(version)s")
@click.option("-C", "directory", metavar="DIR", help="Work as if started in DIR.")
@click.option("--context", metavar="NAME", help="Which control plane of the config file to use.")
@click.option("--url", metavar="URL", help="Control plane to talk to; beats $MYCELIAL_URL.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@click.pass_context
def cli(
    ctx: click.Context,
    directory: str | None,
    context: str | None,
    url: str | None,
    color: str,
    verbose: bool,
) -> None:
    """Move data by committing YAML to git.

    \b
    Start with:  mycelial demo
    """
    from mycelial.cli.session import Session

    if directory:
        try:
            os.chdir(directory)
        except OSError as error:
            raise click.UsageError(f"cannot work in {directory}: {error.strerror}") from error
    ctx.obj = Session(context=context, url=url, color=color, verbose=verbose)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    # A verb lives for moments and makes little garbage; the long-lived ones switch this back on.
    gc.disable()
    code = run(sys.argv[1:] if arguments is None else list(arguments))
    # Taking ten thousand objects apart one by one before the end helps nobody.
    with contextlib.suppress(OSError):  # a reader that has gone away
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; never a traceback for a user's mistake."""
    try:
        value = cli.main(args=list(arguments), prog_name="mycelial", standalone_mode=False)
        sys.stdout.flush()
        return int(value) if isinstance(value, int) else ExitCode.DONE
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        # Click's own code is 2, which here means "the plan has changes".
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except MycelialError as error:
        from mycelial.cli.render import show_problems

        show_problems(error.problems)
        return error.exit_code
    except BrokenPipeError:
        # The reader has what it wanted (`| head`); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except click.ClickException as error:
        error.show()
        return ExitCode.FAILED
    except Exception as error:  # the outermost supervisor: a bug becomes a report file
        return _report_bug(error, arguments)


def _report_bug(error: Exception, arguments: Sequence[str]) -> int:
    text = "".join(traceback.format_exception(error))
    fd, name = tempfile.mkstemp(prefix="mycelial-bug-", suffix=".txt")
    verb = next((word for word in arguments if not word.startswith("-")), "")
    with os.fdopen(fd, "w", encoding="utf-8") as report:
        report.write(f"mycelial {__version__} python {sys.version}\nverb: {verb}\n\n{text}")
    click.echo(
        f"MYC-INTERNAL-001 a bug in mycelial: {type(error).__name__}\n"
        f"  fix: please send us {Path(name)}; nothing was changed by this command after the error",
        err=True,
    )
    return ExitCode.INTERNAL


if __name__ == "__main__":
    main()
