"""Reads the samples or the header of a file, whatever its format and its extension."""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from diffaug.decoding.formats import dicom, netpbm, raw_tiff, recognition
from diffaug.decoding.formats.color import read_color
from diffaug.decoding.formats.deep import is_deep, read_deep
from diffaug.decoding.formats.orientation import upright_size
from diffaug.decoding.formats.pillow_files import (
    REDUCED_FORMATS,
    bands_of,
    header_of,
    open_page,
    reduce_while_decoding,
)
from diffaug.decoding.formats.reduced import read_reduced
from diffaug.decoding.limits import open_regular, raise_if_of_machine
from diffaug.decoding.result import DecodeStatus, Header, RejectedError, Samples

SMALL_FILE = 2**17  # bytes; read at once, since many small reads take longer


def read_file(path: Path, page: int = 0) -> Samples:
    """The samples of one page of a file; a RejectedError if it can't be used."""
    with open_regular(path) as file:
        return read_samples(file, page, path.name)


def hash_and_file(file: BufferedReader) -> tuple[str, BinaryIO]:
    """The sha256 of an open file at its beginning, and the file there again, a small one in memory.

    A RejectedError if the disk fails.
    """
    try:
        content = file.read(SMALL_FILE)
        if len(content) < SMALL_FILE:
            return hashlib.sha256(content).hexdigest(), io.BytesIO(content)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        file.seek(0)
    except OSError as error:
        raise RejectedError("unreadable", str(error.strerror or error).lower()) from error
    return digest.hexdigest(), file


def hash_of_file(file: BufferedReader) -> str:
    """The sha256 of an open file at its beginning; a RejectedError if the disk fails."""
    return hash_and_file(file)[0]


def hash_of_page(path: Path, file: BufferedReader) -> str:
    """The sha256 of an open file of which several pages are read; the same for each, and found once."""
    status = os.fstat(file.fileno())
    return _hash_of_state(path, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=64)
def _hash_of_state(path: Path, _: tuple[int, ...]) -> str:
    with open_regular(path) as file:
        return hash_of_file(file)


def read_header(file: BinaryIO, name: str) -> Header:
    """The header of an open file; a RejectedError if it can't be used."""
    with rejecting(file) as head:
        if netpbm.is_netpbm(head):
            return netpbm.read_header(head)
        if dicom.is_dicom(head, name):
            return dicom.read_header(file)
        try:
            image, frames = open_page(file)
        except UnidentifiedImageError:
            if head.startswith(recognition.TIFF):
                return raw_tiff.read_header(file)
            raise
        return header_of(image, len(frames))


def read_samples(file: BinaryIO, page: int, name: str) -> Samples:
    """The samples of one page of an open file; a RejectedError if it can't be used."""
    with rejecting(file) as head:
        if netpbm.is_netpbm(head):
            return netpbm.read_samples(file, head)
        if dicom.is_dicom(head, name):
            return dicom.read_samples(file, page)
        try:
            return _read_with_pillow(file, page)
        except UnidentifiedImageError:
            if head.startswith(recognition.TIFF):
                return raw_tiff.read_samples(file, page)
            raise


def _read_with_pillow(file: BinaryIO, page: int) -> Samples:
    def open_again() -> Image.Image:
        file.seek(0)
        return open_page(file, page)[0]

    image, frames = open_page(file, page)
    whole_size = upright_size(image)
    if bands := bands_of(image, file):
        samples = read_reduced(image, bands)
    else:
        reduce_while_decoding(image, file)
        samples = read_deep(image, open_again) if is_deep(image) else read_color(image)
        if image.format in REDUCED_FORMATS:
            samples.size = whole_size
    frames_in_file = getattr(image, "n_frames", 1) if image.format == "MPO" else len(frames)
    if frames_in_file > 1 and page == 0:
        samples.notes = (f"first of {frames_in_file} frames", *samples.notes)
    return samples


@contextmanager
def rejecting(file: BinaryIO) -> Iterator[bytes]:
    """Gives the first bytes of a file, and turns whatever its parser raises into a RejectedError."""
    head = b""
    try:
        head = file.read(recognition.HEAD_BYTES)
        file.seek(0)
        if advice := recognition.unsupported(head):
            raise RejectedError("unsupported format", advice)
        yield head
    except RejectedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise RejectedError("too large", "more pixels than can be decoded safely") from error
    except UnidentifiedImageError as error:
        raise RejectedError(*_why_unidentified(head)) from error
    except Exception as error:  # parsers of damaged files raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise_if_of_machine(error)
        missing = isinstance(error, KeyError | IndexError)
        note = f"{error} is missing" if missing else " ".join(str(error).split())
        raise RejectedError("truncated", note or "damaged") from error


def _why_unidentified(head: bytes) -> tuple[DecodeStatus, str]:
    if recognition.looks_like_an_image(head):
        return "truncated", "the header is cut short or damaged"
    return "not an image", f"the content is not {recognition.READ}" if head else "empty file"
