"""The command line: commands are imported only when one is called, and have no logic of their own."""

import importlib
import os
import sys
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import click

from diffaug._version import __version__
from diffaug.cli.failures import failure_of, report
from diffaug.cli.groups import Group, Output
from diffaug.errors import Interrupted, UsageError
from diffaug.runtime import abandoned_threads as abandoned
from diffaug.runtime.distributed import ALONE, joined, launched_together

COMMANDS = {
    "demo": ("job", "Run the whole job on bundled digits."),
    "run": ("job", "Run the whole job on DATA: fit, generate, evaluate, report."),
    "inspect": ("job", "Show what is in DATA: counts, unreadable files, duplicates, leaks."),
    "plan": ("job", "Show what fit would do with DATA and how long it would take."),
    "fit": ("job", "Train a generator on DATA."),
    "generate": ("job", "Fill up the rare classes of STUDY with synthetic images."),
    "review": ("review", "Look through the pool of STUDY on a local page and reject images by hand."),
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
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # an ordinary end would try it again, and fail with a code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if abandoned.any_running():
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
    except BaseException as error:
        failure = failure_of(error)
        if failure is None:
            raise
        with suppress(OSError):  # nobody may be there to read it
            report(failure, output)
        sys.exit(failure.exit_code)


def _take_part(arguments: list[str]) -> None:
    """Runs the command beside the main process, which alone reports results and what all processes refuse."""
    try:
        with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            cli.main(arguments, prog_name="diffaug", standalone_mode=False, obj=Output())
    except (UsageError, Interrupted, click.ClickException) as error:
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        raise SystemExit(Interrupted.exit_code) from None
