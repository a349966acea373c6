"""The tree of a data folder: which images and other files lie where. Links are followed, loops and repeats found."""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from diffaug.data.layouts.entries import tally
from diffaug.errors import DataError, UsageError

MAX_DEPTH = 64
MAX_LINKED_FOLDERS = 20_000

IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".avif", ".heic", ".heif"),
    *(".dcm", ".dicom", ".nii", ".nii.gz"),
    # Not read, but an error or a remark says how to convert each.
    *(".psd", ".psb", ".xcf", ".exr", ".jxl", ".fits", ".nrrd", ".mha", ".czi", ".dds", ".qoi"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"),
}
_OTHER_SUFFIXES = {
    *(".csv", ".db", ".h5", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".parquet", ".toml", ".tsv"),
    *(".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".npy", ".npz", ".pkl", ".pt", ".mat", ".ipynb", ".py", ".sh"),
    *(".doc", ".docx", ".pdf", ".rst", ".avi", ".mov", ".mp4", ".7z", ".gz", ".tar", ".zip", ".md5", ".sha256"),
}
_SIGNATURES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51"),
)
_NETPBM = re.compile(rb"P[1-6]\s")
_JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "__pycache__", "lost+found", "$recycle.bin"}
_SYSTEM = re.compile(r"/(?:proc|sys|dev(?!/shm))(?:/|$)")
_INDEX_OF_DICOM = "dicomdir"  # lists the files of a medium, and begins as they do

OTHER = "files that are not images, skipped"
OTHER_FORMAT = "files of other formats, skipped (convert them to PNG or TIFF if they are images)"
MAY_HOLD_IMAGES = {".svg", ".eps", ".pdf", ".h5", ".hdf5"}
_BAD_NAME = "files and folders whose names are not valid UTF-8, skipped"
_SPECIAL = "broken links and special files, skipped"
_LOOP = "links that lead back to a folder around them, skipped"
_AGAIN = "links in folders that are read a second time, skipped"
_OUTSIDE = "links that lead out of the data folder, followed"
_CLOSED = "linked folders that can't be listed, skipped"
_DEEP = f"folders more than {MAX_DEPTH} levels deep, skipped"

_Identity = tuple[int, int]  # device and inode


@dataclass
class Folder:
    """One folder; paths are relative to the root of the walk, with forward slashes."""

    name: str
    path: str  # empty for the root
    images: list[str] = field(default_factory=list)  # names of the files that may be images
    others: list[str] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)

    def below(self, name: str) -> str:
        """The path of something in this folder."""
        return f"{self.path}/{name}" if self.path else name

    def own_images(self) -> list[str]:
        """Paths of the images that lie directly in this folder."""
        return [self.below(name) for name in self.images]

    def all_images(self) -> Iterator[str]:
        """Paths of the images at any depth."""
        for folder in self.walk():
            yield from folder.own_images()

    def walk(self) -> Iterator["Folder"]:
        """This folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def take_out(self, path: str | None) -> None:
        """Removes the folder at this path from the tree."""
        for parent in self.walk() if path else ():
            parent.folders = [inner for inner in parent.folders if inner.path != path]

    def filled(self) -> list["Folder"]:
        """The folders directly below that hold an image at any depth."""
        return [folder for folder in self.folders if folder.is_filled()]

    def is_filled(self) -> bool:
        """Whether there is an image at any depth."""
        return bool(self.images) or any(folder.is_filled() for folder in self.folders)


class Account:
    """What was left out and why."""

    def __init__(self) -> None:
        self.left_out: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, reason: str, paths: Iterable[str]) -> None:
        """Notes paths relative to the root."""
        self.left_out[reason].update(os.fsencode(path).decode(errors="replace") for path in paths)

    def sentences(self) -> list[str]:
        """One sentence per reason, with the number of paths and the first of them."""
        return [sentence for reason, paths in self.left_out.items() for sentence in tally(reason, paths)]


@dataclass(frozen=True)
class _Link:
    parent: Folder
    name: str
    around: frozenset[_Identity]  # the folders that the link lies in


class Walk:
    """Reads the tree below a root.

    Real folders are read first, then links to folders. A folder that is reached again is read again, but links in it
    are not followed then, and the pair is kept in `twins`.
    """

    def __init__(self, root: Path, account: Account) -> None:
        self._root = os.fspath(root)
        self._real_root = os.path.realpath(root)
        self._account = account
        self._seen: dict[_Identity, str] = {}
        self._links: list[_Link] = []
        self._linked_folders = 0
        self.twins: list[tuple[str, str]] = []  # a path, and the path at which the same folder was read before

    def tree(self) -> Folder:
        """Reads all.

        Raises:
            DataError: A folder can't be listed, or links lead to more than `MAX_LINKED_FOLDERS` folders.
        """
        path = Path(self._real_root)
        around = frozenset(_identity(parent.stat()) for parent in path.parents)
        tree = Folder(path.name, "")
        self._fill(tree, around)
        for link in self._links:  # grows while linked folders are read
            self._follow(link)
        for folder in tree.walk():
            folder.folders.sort(key=lambda inner: inner.name)  # linked ones come last
        return tree

    def _full(self, folder: Folder) -> str:
        return f"{self._root}{os.sep}{folder.path}" if folder.path else self._root

    def _fill(self, folder: Folder, around: frozenset[_Identity], *, link: str = "", again: bool = False) -> None:
        """Reads a folder, where `link` is the path of the link that leads into it, if one does."""
        full = self._full(folder)
        if folder.path.count("/") >= MAX_DEPTH:
            self._account.add(_DEEP, [folder.path])
            return
        try:
            identity = _identity(Path(full).stat())
            found = sorted(os.scandir(full), key=lambda item: item.name)
        except OSError as error:
            if link and link != folder.path:
                self._account.add(_CLOSED, [folder.path])
                return
            what = f"can't list the folder: {error.strerror}"
            raise DataError(what, where=full, fix="check its permissions") from error
        self._count_linked(link)
        first = self._seen.setdefault(identity, folder.path)
        if first != folder.path and not again:
            self.twins.append((folder.path, first))
            again = True
        around |= {identity}
        for item in found:
            self._sort_in(folder, item, around, again=again)
        for inner in folder.folders:
            self._fill(inner, around, link=link, again=again)

    def _count_linked(self, link: str) -> None:
        self._linked_folders += bool(link)
        if self._linked_folders > MAX_LINKED_FOLDERS:
            what = f"links lead to more than {MAX_LINKED_FOLDERS:,} folders"
            raise DataError(what, where=f"{self._root}{os.sep}{link}", fix="remove this link, or link to less")

    def _sort_in(self, folder: Folder, item: os.DirEntry[str], around: frozenset[_Identity], *, again: bool) -> None:
        name = item.name
        if name.startswith(".") or name.casefold() in _JUNK:
            return
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):  # undecodable bytes
            self._account.add(_BAD_NAME, [folder.below(name)])
        elif item.is_file(follow_symlinks=False):
            (folder.images if _may_be_image(item) else folder.others).append(name)
        elif item.is_dir(follow_symlinks=False):
            folder.folders.append(Folder(name, folder.below(name)))
        else:
            self._sort_in_link(folder, item, around, again=again)

    def _sort_in_link(
        self, folder: Folder, item: os.DirEntry[str], around: frozenset[_Identity], *, again: bool
    ) -> None:
        path, mode = folder.below(item.name), _mode(item)
        if stat.S_ISREG(mode):
            self._note_outside(path, os.path.realpath(item.path))
            (folder.images if _may_be_image(item) else folder.others).append(item.name)
        elif not stat.S_ISDIR(mode):
            self._account.add(_SPECIAL, [path])
        elif again:
            self._account.add(_AGAIN, [path])
        else:
            self._links.append(_Link(folder, item.name, around))

    def _follow(self, link: _Link) -> None:
        folder = Folder(link.name, link.parent.below(link.name))
        full = self._full(folder)
        target = os.path.realpath(full)
        if _identity(Path(full).stat()) in link.around:
            self._account.add(_LOOP, [folder.path])
        elif _SYSTEM.match(target):
            self._account.add(_SPECIAL, [folder.path])
        else:
            self._note_outside(folder.path, target)
            link.parent.folders.append(folder)
            self._fill(folder, link.around, link=folder.path)

    def _note_outside(self, path: str, target: str) -> None:
        if not target.startswith(self._real_root.rstrip(os.sep) + os.sep):
            self._account.add(_OUTSIDE, [path])


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _mode(item: os.DirEntry[str]) -> int:
    """The mode of what a link leads to; 0 for a broken link or one to itself."""
    try:
        return item.stat().st_mode
    except OSError:
        return 0


def suffix_of(name: str) -> str:
    """The suffix in lower case, `.nii.gz` as one; empty if there is none."""
    return name[len(stem_of(name)) :].lower()


def stem_of(path: str) -> str:
    """A path without the suffix that `suffix_of` finds."""
    if path[-7:].lower() == ".nii.gz":
        return path[:-7]
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and stem and stem[-1] != "/" and "/" not in suffix else path


def _may_be_image(item: os.DirEntry[str]) -> bool:
    """By its suffix; by its first bytes if the suffix says nothing."""
    suffix = suffix_of(item.name)
    if suffix in IMAGE_SUFFIXES or suffix in _OTHER_SUFFIXES:
        return suffix in IMAGE_SUFFIXES
    if item.name.casefold() == _INDEX_OF_DICOM:
        return False
    try:
        with Path(item.path).open("rb") as file:
            head = file.read(132)
    except OSError:
        return True  # so that it is reported as unreadable
    marked = head[4:8] == b"ftyp" or head[8:12] == b"WEBP" or head[128:] == b"DICM"
    return marked or head.startswith(_SIGNATURES) or bool(_NETPBM.match(head))


def path_from(root: Path, folder: Path, flag: str, holds: str) -> str:
    """The path of a folder that a flag names, relative to the data folder, with forward slashes.

    Raises:
        UsageError: There is no such folder, or it holds the data folder.
    """
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UsageError(f"{flag}: {what}", where=folder, fix=f"give the folder that holds the {holds}")
    real, inside = Path(os.path.realpath(folder)), Path(os.path.realpath(root))
    if inside.is_relative_to(real):
        fix = f"move the {holds} into a folder of their own"
        raise UsageError(f"the folder of {holds} holds the labeled ones, too", where=folder, fix=fix)
    try:
        return PurePath(os.path.relpath(real, inside)).as_posix()
    except ValueError as error:  # another drive of Windows
        fix = f"copy the {holds} to the drive of the labeled images"
        raise UsageError(f"{holds} and labeled images lie on different drives", where=folder, fix=fix) from error
