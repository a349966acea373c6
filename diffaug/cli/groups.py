"""Groups of commands, what their options say about the output, and how text is printed."""

import json
from dataclasses import dataclass
from typing import Any

import click

from diffaug.errors import did_you_mean
from diffaug.runtime.console import printable


@dataclass
class Output:
    """How a command answers, one JSON object or text, and if quiet, only results; the object of its click context."""

    as_json: bool = False
    quiet: bool = False


class Group(click.Group):
    """Suggests the nearest command, and reads `--json` first, so that the error of a wrong option is JSON too."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that `args` begin with."""
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no such command '{args[0]}'; {did_you_mean(args[0], known)}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            lenient = click.Context(command, ctx, ignore_unknown_options=True, resilient_parsing=True)
            values, _, _ = command.make_parser(lenient).parse_args(list(rest))
            ctx.ensure_object(Output).as_json |= bool(values.get("json"))
        return name, command, rest


def echo(text: str, *, err: bool = False) -> None:
    """Prints lines on stdout, or on stderr; nothing in them can steer the terminal."""
    click.echo(printable(text, keep="\n"), err=err)


def echo_json(content: Any) -> None:
    """Prints an object as one line of JSON, in which what is not printable is escaped."""
    text = json.dumps(content, ensure_ascii=False, default=str)
    click.echo("".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text))
