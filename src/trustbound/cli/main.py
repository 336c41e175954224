"""The `trustbound` command."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import NoReturn

import click

from trustbound.cli.registry import COMMANDS
from trustbound.errors import MissingDependencyError, TrustboundError, UnsoundError


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run, so that `--help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, in the order of the registry."""
        return list(COMMANDS.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS.names:
            return None
        command = COMMANDS.load(cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command by its name; one that is not there is answered with the nearest."""
        if args and args[0] not in COMMANDS.names and not args[0].startswith("-"):
            hint = COMMANDS.suggestion(args[0]) or f" Choose one of {', '.join(COMMANDS.names)}."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the registry, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.line) for row in COMMANDS])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trustbound")
def cli() -> None:
    """How far can this neural network be trusted?

    Attacks bound its robust accuracy from above, proofs from below; uncertainty and checks of the evaluation stand
    beside them. Exit codes: 0 done, 1 a threshold missed, 2 wrong usage or input, 3 finished but not to be
    trusted, 130 stopped from the keyboard, 143 told to end (SIGTERM); nothing that is finished is lost.
    """


class Terminated(KeyboardInterrupt):
    """The process was told to end: what is finished is kept, as when it is stopped from the keyboard."""


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # told again, it ends at once
    raise Terminated


def main() -> None:
    """Run the command line; every error that trustbound raises on purpose is one message, not a traceback."""
    if threading.current_thread() is threading.main_thread():  # no other may
        signal.signal(signal.SIGTERM, _end)
    try:
        sys.exit(cli.main(standalone_mode=False, obj=time.perf_counter()))  # when it began
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        click.echo("stopped; an audit or a training goes on from here when the same command is given again", err=True)
        sys.exit(143 if Terminated in map(type, (error, error.__cause__)) else 130)
    except UnsoundError as error:
        click.echo(f"unsound: {error}", err=True)
        sys.exit(3)
    except MissingDependencyError as error:
        click.echo(f"missing: {error}", err=True)
        sys.exit(2)
    except TrustboundError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a file that cannot be read or written; whoever knows more has said so above
        click.echo(f"error: {error.filename or 'a file'} cannot be used: {error.strerror or error}", err=True)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        click.echo("This is a defect of trustbound; please report it with the command and the lines above.", err=True)
        sys.exit(70)


if __name__ == "__main__":
    main()
