"""The command line: one module a command, imported only when called; no logic of its own."""

from __future__ import annotations

import difflib
import errno
import importlib
import json
import os
import sys
import threading
from contextlib import suppress
from typing import Any

import click

from diffaug._version import __version__
from diffaug.errors import DataError, DiffaugError, Interrupted, QualityGateError
from diffaug.runtime.distributed import launched_together

COMMANDS = {
    "demo": "The whole job on bundled digits, in minutes.",
    "run": "The whole job on your images: fit, generate, evaluate, report.",
    "inspect": "What is in a folder of images: counts, bad files, duplicates, leaks.",
    "plan": "What fit would do and how long it would take; trains nothing.",
    "fit": "Train a generator on your images.",
    "generate": "Fill up the rare classes with synthetic images.",
    "verify": "Look whether every file of the pool is as it was written.",
    "evaluate": "Measure whether they make a classifier better.",
    "report": "Write the report of an evaluation again.",
    "sync": "Send to MLflow what it has not had, such as after an outage.",
    "export": "Write the images for other libraries: ImageFolder, Hugging Face, webdataset.",
    "recipes": "List, show or copy ready configurations.",
    "doctor": "Versions, devices, what is missing and how to get it.",
}

IN_RESULTS = {"verify", "report", "sync", "export"}
AT_THE_TOP = {"recipes", "doctor"}

DISK_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}


class LazyGroup(click.Group):
    """Imports a command's module when it is called, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of a job."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        room = "results." if cmd_name in IN_RESULTS else "" if cmd_name in AT_THE_TOP else "job."
        command: click.Command = importlib.import_module(f"diffaug.cli.{room}{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, and suggests the nearest when there is none of this name."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command '{args[0]}'." + (f" Did you mean '{near[0]}'?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="diffaug")
@click.pass_context
def cli(context: click.Context) -> None:
    """Generative augmentation for small, imbalanced image sets, with an honest verdict.

    Begin with: diffaug demo, or diffaug run ./data
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with the documented code.

    0 done, 1 failed, 2 wrong usage, 3 bad data, 4 a missing extra, 5 a quality gate, 130 interrupted. Any other
    exception is a bug and keeps its traceback.

    Args:
        arguments: None: those of the process, which ends with the command.
    """
    if arguments is not None:
        _answer(arguments)
        return
    try:
        _answer(sys.argv[1:])
    except SystemExit as leaving:
        _leave(int(leaving.code or 0))
        raise
    _leave(0)


def _leave(code: int) -> None:
    """Ends the process here where a tracker was given up: its thread may be in C++ code, where a normal end aborts."""
    if any(thread.name.startswith("diffaug-") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def _answer(arguments: list[str]) -> None:
    _share_the_processor()
    as_json = "--json" in arguments and (not launched_together() or os.environ["RANK"] == "0")
    try:
        _run(arguments)
    except QualityGateError as error:
        details = {"fix": error.fix, "where": error.where, "results": error.results}
        _fail(str(error), error.exit_code, as_json, **details)
    except DiffaugError as error:
        _fail(str(error), error.exit_code, as_json, fix=error.fix, where=error.where)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code, as_json, fix=_usage_hint(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        fix = "check permissions and free space, or choose another --study or output folder"
        where = f"\n  where: {error.filename}" if error.filename else ""
        _fail(f"{error.strerror}{where}", DataError.exit_code, as_json, fix=fix)
    except (KeyboardInterrupt, click.Abort):
        from diffaug.cli.options import typed_command

        message = "interrupted; what was finished is kept"
        _fail(message, Interrupted.exit_code, as_json, fix=f"go on with: {typed_command()}")


def _run(arguments: list[str]) -> None:
    def command() -> None:
        cli.main(arguments, prog_name="diffaug", standalone_mode=False)

    if launched_together():
        from diffaug.stages.launch import run_together

        run_together(command)
    else:
        command()


def _share_the_processor() -> None:
    """Lets torch's threads wait asleep; must come before torch is imported.

    By default they wait by spinning, and one other busy process then slows a training down manyfold.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"see: {context.command_path} --help" if context is not None else None


def _fail(message: str, exit_code: int, as_json: bool, **details: Any) -> None:
    if as_json:
        content = {"schema_version": 1, "status": "error", "exit_code": exit_code, "message": message, **details}
        click.echo(json.dumps(content, default=str))
    lines = [f"error: {message}"]
    if details.get("fix") and details["fix"] not in message:
        lines.append(f"  fix:   {details['fix']}")
    click.echo("\n".join(lines), err=True)
    sys.exit(exit_code)
