"""The command line: commands are imported only when one is called, and have no logic of their own."""

import errno
import importlib
import json
import os
import sys
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import click

from diffaug._version import __version__
from diffaug.cli.groups import Group, Output
from diffaug.errors import DataError, DiffaugError, Interrupted, UsageError
from diffaug.runtime import abandoned_threads as abandoned
from diffaug.runtime.distributed import ALONE, joined, launched_together

COMMANDS = {
    "demo": ("job", "Run the whole job on bundled digits."),
    "run": ("job", "Run the whole job on DATA: fit, generate, evaluate, report."),
    "inspect": ("job", "Show what is in DATA: counts, unreadable files, duplicates, leaks."),
    "plan": ("job", "Show what fit would do with DATA and how long it would take."),
    "fit": ("job", "Train a generator on DATA."),
    "generate": ("job", "Fill up the rare classes of STUDY with synthetic images."),
    "verify": ("results", "Verify the checksums of the pool of STUDY."),
    "evaluate": ("job", "Measure whether the synthetic images of STUDY improve a classifier."),
    "report": ("results", "Write the report of STUDY again."),
    "sync": ("results", "Upload pending events of STUDY to MLflow."),
    "export": ("results", "Write the images of STUDY for other libraries."),
    "recipes": ("recipes", "List, show or copy ready configurations."),
    "doctor": ("doctor", "Show versions and devices, and how to install what is missing."),
}
"""The module of each command and what it does, in the order of a job."""

TOGETHER = {"demo", "run", "plan", "fit", "generate", "evaluate"}
"""What processes started by torchrun do together; the main one does everything else alone."""

DISK_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}


class LazyGroup(Group):
    """Imports the module of a command when it is called, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"diffaug.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="diffaug")
@click.pass_context
def cli(context: click.Context) -> None:
    """Generative augmentation for small, imbalanced image sets, with an honest verdict.

    DATA is a folder of labeled images. STUDY is the folder of one job, runs/NAME unless --study gives another one.

    Begin with: diffaug demo, or diffaug run ./data
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with the code of docs/reference/exit-codes.md; a bug keeps its traceback.

    Args:
        arguments: The arguments. Default: those of the process, which ends with the command.
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
    """Ends the process here if a thread was abandoned in foreign code, where an ordinary end would abort."""
    if abandoned.any_running():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def _answer(arguments: list[str]) -> None:
    # The threads of torch wait asleep instead of spinning beside other processes; must be set before torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    output = Output()
    try:
        with joined() if launched_together() else nullcontext(ALONE) as group:
            if group.is_main:
                cli.main(arguments, prog_name="diffaug", standalone_mode=False, obj=output)
            elif arguments and arguments[0] in TOGETHER:
                _take_part(arguments)
    except DiffaugError as error:
        results = {} if error.results is None else {"results": error.results}
        _fail(str(error), error.exit_code, output, fix=error.fix, where=error.where, **results)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        fix = f"see: {context.command_path} --help" if context else None
        _fail(error.format_message(), error.exit_code, output, fix=fix)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        fix = "check permissions and free space, or choose another --study or output folder"
        where = f"\n  where: {error.filename}" if error.filename else ""
        _fail(f"{error.strerror}{where}", DataError.exit_code, output, fix=fix)
    except (KeyboardInterrupt, click.Abort):
        from diffaug.cli.options import typed_command

        fix = f"resume with: {typed_command()}"
        _fail("interrupted; finished work was kept", Interrupted.exit_code, output, fix=fix)


def _take_part(arguments: list[str]) -> None:
    """Runs the command beside the main process, which alone reports results and what all processes refuse."""
    try:
        with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            cli.main(arguments, prog_name="diffaug", standalone_mode=False, obj=Output())
    except (UsageError, Interrupted, click.ClickException) as error:
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        raise SystemExit(Interrupted.exit_code) from None


def _fail(message: str, exit_code: int, output: Output, **details: Any) -> None:
    if output.as_json:
        content = {"schema_version": 1, "status": "error", "exit_code": exit_code, "message": message, **details}
        click.echo(json.dumps(content, default=str))
    lines = [f"error: {message}"]
    if details.get("fix") and details["fix"] not in message:
        lines.append(f"  fix:   {details['fix']}")
    click.echo("\n".join(lines), err=True)
    sys.exit(exit_code)
