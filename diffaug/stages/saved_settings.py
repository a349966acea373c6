"""The settings of a study on disk: YAML that ends in its hash, since it belongs to no committed directory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from diffaug.configuration.yaml_files import parse_mapping
from diffaug.errors import DamagedError
from diffaug.files import storage

MARK = "# sha256: "


def copy_of(file: Path) -> Path:
    """Where the settings are kept once more, for the case that the file is damaged."""
    return file.with_name(f".{file.name}")


def save_settings(file: Path, text: str) -> bool:
    """Writes the settings, in place of whatever is there, and their copy; False if both are there already."""
    content = f"{text}{MARK}{storage.sha256_bytes(text.encode())}\n".encode()
    stale = [one for one in (copy_of(file), file) if not (storage.is_regular(one) and one.read_bytes() == content)]
    for one in stale:
        if one.is_dir():
            storage.discard_directory(one)
        storage.write_bytes(one, content)
    return bool(stale)


def copied_settings(file: Path) -> dict[str, Any] | None:
    """The settings of the copy; None if it is damaged, too."""
    with suppress(DamagedError):
        return saved_settings(copy_of(file), required=True)
    return None


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
