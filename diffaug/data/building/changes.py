"""How a data folder differs from the catalog that was made of it; nothing is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.unlabeled import read_further
from diffaug.data.catalog import Catalog
from diffaug.data.layouts.entries import listed
from diffaug.data.layouts.scan import Scan, scan
from diffaug.data.masks.reading import mask_files
from diffaug.data.reading.sources import changed_files, load_stamps, save_stamps
from diffaug.files import storage

HASHED_AT_ONCE = 4096  # texts


def stamps_beside(directory: Path) -> Path:
    """The file beside a catalog that holds the stamps of its files."""
    return directory.with_name(f"{directory.name}-stamps.npy")


def describe_changes(catalog: Catalog, root: Path, settings: DataSettings, directory: Path) -> str:
    """How the folder differs from the catalog, in one sentence; empty if it does not.

    Of the files that are in the catalog, which lies in `directory`, only those are read that were touched since their
    stamps were written, which are brought up to date.
    """
    stamps_file = stamps_beside(directory)
    found = scan(root, settings, read_further(root, settings.unlabeled))
    is_first_page = catalog.table["page"] == 0
    files, sha256 = (catalog.table[column][is_first_page].to_numpy(object).tolist() for column in ("file", "sha256"))
    now, before = {entry.path for entry in found.entries}, set(files)
    now_read = now | {entry.mask for entry in found.entries if entry.mask}
    masks = mask_files(directory)
    files, sha256 = [*files, *masks.files], [*sha256, *masks.sha256]
    known = load_stamps(stamps_file, len(files))
    changed, stamps = changed_files(root, files, sha256, known)
    if (stamps != known).any():
        save_stamps(stamps_file, stamps)
    kinds = {"added": now - before, "removed": before - now, "changed": set(changed) & now_read}
    parts = [f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names]
    if parts:
        return f"files since the catalog was made: {', '.join(parts)}"
    same = scan_fingerprint(found) == catalog.scan_fingerprint
    return "" if same else "labels, groups, splits or class folders were changed since the catalog was made"


def scan_fingerprint(found: Scan) -> str:
    """Changes with any path, label, group, mask or given split, and with the classes."""
    fields = ("path", "label", "split", "group", "mask")
    columns = ([getattr(entry, name) or "" for entry in found.entries] for name in fields)
    return text_fingerprint(found.classes, *columns)


def text_fingerprint(*columns: Iterable[str]) -> str:
    """A short stable hash of columns of texts."""
    return storage.sha256_bytes("".join(map(_column_hash, columns)).encode())[:16]


def _column_hash(column: Iterable[str]) -> str:
    digest, texts = hashlib.sha256(), iter(column)
    while some := list(islice(texts, HASHED_AT_ONCE)):
        lengths = ",".join(map(str, map(len, some)))
        digest.update(f"{lengths};{''.join(some)};".encode(errors="surrogateescape"))
    return digest.hexdigest()
