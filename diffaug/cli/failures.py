"""How a command ends that fails: what is said, and the exit code of docs/reference/exit-codes.md."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from diffaug.cli.groups import Output, echo, echo_json
from diffaug.errors import DataError, DiffaugError, Interrupted
from diffaug.runtime.console import printable

ONE_PROCESS = "or train in one process: export DIFFAUG_EVALUATION__WORKERS=1"
FEWER_PROCESSES = f"raise the limit of processes and threads (ulimit -u), {ONE_PROCESS}"
MORE_MEMORY = f"close other programs, use a machine with more memory, {ONE_PROCESS}"
OTHER_REMEDY = "check the disk or the network drive, then repeat the command: what was finished is kept"
REMEDIES = {
    "free space there, or choose another --study or output folder": ("ENOSPC", "EDQUOT"),
    "check the permissions there, or choose another --study or output folder": ("EACCES", "EPERM", "EROFS"),
    "close other programs, or raise the limit of open files: ulimit -n 4096": ("EMFILE", "ENFILE"),
    FEWER_PROCESSES: ("EAGAIN",),
    MORE_MEMORY: ("ENOMEM",),
    "choose a folder with a shorter path: --study": ("ENAMETOOLONG",),
    "raise the limit of file sizes (ulimit -f), or choose another file system": ("EFBIG",),
    "read the output to its end; what was finished is kept": ("EPIPE",),
    "move away what lies in this place, or choose another --study or output folder": (
        *("ENOTDIR", "EISDIR", "EEXIST", "ELOOP", "ENOTEMPTY"),
    ),
    "it was removed, or its disk was: bring it back, then repeat the command": ("ENOENT", "ENXIO", "ENODEV"),
}
_REMEDY_BY_CODE = {
    getattr(errno, name): remedy for remedy, names in REMEDIES.items() for name in names if hasattr(errno, name)
}


@dataclass(frozen=True)
class Failure:
    """What a command says at its end, in the words of `DiffaugError`."""

    what: str
    exit_code: int
    fix: str | None = None
    where: str | None = None
    results: Mapping[str, Any] | None = None


def failure_of(error: BaseException) -> Failure | None:
    """The failure that an exception stands for; None for a bug, which keeps its traceback."""
    match error:
        case DiffaugError():
            return Failure(error.what, error.exit_code, error.fix, error.where, error.results)
        case click.ClickException():
            context = getattr(error, "ctx", None)
            fix = f"see: {context.command_path} --help" if context else None
            return Failure(error.format_message(), error.exit_code, fix)
        case KeyboardInterrupt() | click.Abort():
            from diffaug.cli.options import typed_command

            what = "interrupted; finished work was kept"
            return Failure(what, Interrupted.exit_code, f"resume with: {typed_command()}")
    return _refusal_of_system(error)


def report(failure: Failure, output: Output) -> None:
    """Prints a failure for a person, with `--json` also for programs."""
    lines = [failure.what]
    lines += [f"  where: {printable(failure.where)}"] if failure.where else []
    lines += [f"  fix:   {printable(failure.fix)}"] if failure.fix else []
    if output.as_json:
        details = {"where": failure.where, "results": failure.results}
        content = {"schema_version": 1, "status": "error", "exit_code": failure.exit_code, "message": "\n".join(lines)}
        given = {name: value for name, value in details.items() if value is not None}
        echo_json({**content, "fix": failure.fix, **given})
    echo("error: " + "\n".join(lines), err=True)


def _refusal_of_system(error: BaseException) -> Failure | None:
    """What the system refuses: files, memory, threads."""
    if isinstance(error, OSError):  # those without a code come from libraries on top of the system
        what = error.strerror or str(error) or type(error).__name__
        named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        fix = _REMEDY_BY_CODE.get(error.errno or 0, OTHER_REMEDY)
        return Failure(what, DataError.exit_code, fix, " -> ".join(named) or None)
    if _is_lack_of_memory(error):
        return Failure("memory ran out", DataError.exit_code, MORE_MEMORY)
    text = str(error) if isinstance(error, RuntimeError) else ""
    if "can't start new thread" in text:
        return Failure("the system allows no further thread", DataError.exit_code, FEWER_PROCESSES)
    if text.startswith("Symlink loop from "):  # as pathlib says it
        where = text.removeprefix("Symlink loop from ").strip("'\"")
        return Failure(os.strerror(errno.ELOOP), DataError.exit_code, _REMEDY_BY_CODE[errno.ELOOP], where)
    return None


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, also that of a GPU; torch has no exception of its own for that of the CPU."""
    is_of_torch = isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    )
    return isinstance(error, MemoryError) or is_of_torch
