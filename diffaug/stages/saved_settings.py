"""The settings of a study on disk: YAML that ends in its hash, since it belongs to no committed directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffaug.configuration.yaml_files import parse_mapping
from diffaug.errors import DamagedError
from diffaug.files import storage

MARK = "# sha256: "


def save_settings(file: Path, text: str) -> bool:
    """Writes the settings, in place of whatever is there; False if they are there already."""
    content = f"{text}{MARK}{storage.sha256_bytes(text.encode())}\n"
    if storage.is_regular(file) and file.read_bytes() == content.encode():
        return False
    if file.is_dir():
        storage.discard_directory(file)
    storage.write_text(file, content)
    return True


def saved_settings(file: Path, *, required: bool) -> dict[str, Any]:
    """The settings that were saved; none if there is no file and none is required.

    Raises:
        DamagedError: They are gone, or were changed.
    """
    return parse_mapping(settings_text(file), where=file) if required or file.exists() else {}


def settings_text(file: Path) -> str:
    """The YAML that was saved.

    Raises:
        DamagedError: It is gone, or was changed.
    """
    text, mark, sha256 = storage.read_bytes(file).decode(errors="replace").rpartition(MARK)
    if not mark or storage.sha256_bytes(text.encode()) != sha256.strip():
        what = "the settings of the study were changed since diffaug wrote them; others are given as flags"
        raise DamagedError(what, where=file, fix=storage.REPAIR_HINT)
    return text
