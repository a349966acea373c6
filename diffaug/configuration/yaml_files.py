"""Reading YAML, with an error that says which file, variable or option it stood in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from diffaug.errors import UsageError


def parse_value(text: str, *, where: str | os.PathLike[str]) -> Any:
    """A value written as YAML, as in `--set key=value` and in environment variables.

    Args:
        text: YAML.
        where: What an error names: the file, variable or option.

    Raises:
        UsageError: It is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"not valid YAML: {error}", where=where) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, empty where the file is.

    Raises:
        UsageError: The file can't be read or holds something else.
    """
    content = parse_value(read_text(path), where=path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError("a configuration file must hold sections such as 'diffusion:'", where=path)
    return content


def read_text(path: Path) -> str:
    """The text of a file that the user named.

    Raises:
        UsageError: It can't be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read the file: {error}", where=path) from error
