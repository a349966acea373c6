"""The pool: synthetic images as PNG in class folders, with a manifest of where each came from."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_integer_dtype
from pydantic import Field, PositiveInt, TypeAdapter

from diffaug.data.images import LabeledImages, count_by_name
from diffaug.data.labels import SHOWN
from diffaug.data.layouts.entries import listed
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.records import read_record, typed
from diffaug.synthesis.decisions import ImageKey, ReviewFile, rejected_images
from diffaug.synthesis.filters.power import POOL_POWER, PoolPower
from diffaug.synthesis.pool.showing import ShowsImages

T = TypeVar("T")
MANIFEST, REJECTED, SUMMARY, AUDIT = "manifest.parquet", "rejected.parquet", "summary.json", "audit.json"
POWER, BLIND = "power.json", "blind"
IMAGES, REJECTED_IMAGES = "images", "rejected"
TEXTS = ("file", "label", "sha256")


@dataclass(frozen=True)
class ClassSummary:
    """How one class was filled: images requested and accepted, candidates generated, rejected ones by reason."""

    wanted: int
    accepted: int
    candidates: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class PublicationCheck:
    """Whether the audit found the pool to repeat training images, and why, in sentences.

    Attributes:
        checked: The measures that could be taken.
        unchecked: Those that could not: nothing is known about them.
    """

    unsafe_to_publish: bool
    reasons: tuple[str, ...]
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True)
class PoolFacts:
    """What the record of a finished pool says of its images, and for how many images per class it was filled."""

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    image_size: tuple[PositiveInt, PositiveInt]
    channels: Literal[1, 3]
    dataset_class_to_idx: dict[str, int] | None = None
    levels: tuple[float, float] | None = None
    targets: dict[str, int] = field(default_factory=dict)
    chunks: str = ""


POOL_FACTS = TypeAdapter(PoolFacts)
SUMMARIES = TypeAdapter(dict[str, ClassSummary])
PUBLICATION_CHECK = TypeAdapter(PublicationCheck)


@dataclass(frozen=True)
class Problem:
    """A file of a pool that is `missing`, `changed` or `foreign`; its path is relative to the pool."""

    file: str
    what: str


@dataclass(frozen=True)
class Pool(ShowsImages):
    """A finished pool on disk, of all classes of the generator, and images of (height, width) px.

    Attributes:
        dataset_class_to_idx: Class name to label of the dataset that the real images came from; None if they have no
            such numbering, as images in a folder.
        levels: Values that are black and white in the real images; None if those have 8 bits.
        left_out: Names of classes whose images are not looked at.
        rejected_by_review: Images that are not looked at, since a reviewer rejects them.
    """

    root: Path
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    dataset_class_to_idx: Mapping[str, int] | None = None
    levels: tuple[float, float] | None = None
    left_out: tuple[str, ...] = ()
    rejected_by_review: frozenset[ImageKey] = frozenset()

    @classmethod
    def open(cls, path: str | Path) -> Pool:
        """Opens a pool by its folder or the study's, without what a reviewer rejects.

        Its records are hashed now, images when they are read.

        Raises:
            UsageError: There is no finished one.
            DamagedError: Records are missing, cut short or changed.
            DataError: The file of the review was edited into something else.
        """
        path, root = Path(path), _root(Path(path))
        record = _undisturbed(root, partial(storage.committed_metadata, folders=False))
        if record is None or "image_size" not in record:  # unfinished, or a finished folder of something else
            raise _unfinished(path)
        facts = typed(record, POOL_FACTS, where=root / storage.DONE)
        shape, rejected = (facts.image_size, facts.channels), rejected_images(ReviewFile(root).read())
        return cls(root, facts.classes, *shape, facts.dataset_class_to_idx, facts.levels, (), rejected)

    def __len__(self) -> int:
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}

    @property
    def whole(self) -> Pool:
        """The pool with all its images, whoever rejects them."""
        is_part = self.left_out or self.rejected_by_review
        return replace(self, left_out=(), rejected_by_review=frozenset()) if is_part else self

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row per image; see `merging.manifest_columns`."""
        return self._used(self._table(MANIFEST, (*TEXTS, "origin")))

    @cached_property
    def _entries(self) -> pd.DataFrame:
        """The columns of the manifest that identify an image, which are read in a third of the time."""
        return self._used(self._table(MANIFEST, TEXTS, only=True))

    def _used(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of images that are looked at."""
        rejected = [key in self.rejected_by_review for key in zip(rows["file"], rows["sha256"], strict=True)]
        return rows[~(rows["label"].isin(self.left_out) | np.array(rejected, np.bool_))].reset_index(drop=True)

    @cached_property
    def rejected(self) -> pd.DataFrame | None:
        """One row per rejected candidate, with `reason`; `file` is empty if not kept. None: there is no such table."""
        return self._table(REJECTED, (*TEXTS, "reason")) if (self.root / REJECTED).is_file() else None

    def _table(self, name: str, texts: Sequence[str], *, only: bool = False) -> pd.DataFrame:
        """A table of images, or `only` some columns: the texts and the index of the class."""
        table = storage.read_parquet(self.root / name, [*texts, "class_index"], texts=texts, only=only)
        numbers = table["class_index"]
        if len(table) and not (is_integer_dtype(numbers) and numbers.isin(range(len(self.classes))).all()):
            raise DamagedError("the table does not fit the pool", where=self.root / name, fix=storage.REPAIR_HINT)
        return table

    @property
    def summaries(self) -> dict[str, ClassSummary]:
        """How each class was filled, by name; empty if not recorded."""
        file = self.root / SUMMARY
        return read_record(file, SUMMARIES) if file.is_file() else {}

    @cached_property
    def power(self) -> PoolPower | None:
        """What the filters can tell about the images; None if it was not measured, as for images of other origin."""
        file = self.root / POWER
        return read_record(file, POOL_POWER) if file.is_file() else None

    @property
    def unsafe_to_publish(self) -> tuple[str, ...]:
        """Why the pool should not be published, in sentences; empty if it was not found to repeat real images."""
        check = self.publication_check
        return check.reasons if check else ()

    @property
    def publication_check(self) -> PublicationCheck | None:
        """What the audit found, and what it could not check; None if the pool was not audited."""
        file = self.root / AUDIT
        return read_record(file, PUBLICATION_CHECK) if file.is_file() else None

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Class name to position in `classes`, as in the manifest."""
        return {name: index for index, name in enumerate(self.classes)}

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every image, int64 (N,)."""
        return self._entries["class_index"].to_numpy(np.int64)

    @property
    def counts_by_name(self) -> dict[str, int]:
        """Images of each class by name, in class order; reads no image."""
        return count_by_name(self.labels, self.classes)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Path of every image, relative to `root`."""
        return tuple(self._entries["file"].tolist())

    @cached_property
    def image_keys(self) -> tuple[ImageKey, ...]:
        """File and sha256 of every image, which identify it, also when positions change."""
        return tuple(zip(self.files, self._entries["sha256"].tolist(), strict=True))

    def indices_of(self, class_index: int) -> NDArray[np.int64]:
        """Positions of a class's images in the manifest, int64."""
        return np.flatnonzero(self.labels == class_index).astype(np.int64)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of image `index`, uint8 (H, W, C); see `storage.read_png`."""
        file, sha256 = self.image_keys[index]
        return storage.read_png(storage.safe_join(self.root, file), sha256, (*self.image_size, self.channels))

    def verify(self) -> list[Problem]:
        """Every file that is missing, changed or foreign; see `verify_pool`."""
        return verify_pool(self.root)

    def images(self) -> LabeledImages:
        """All images in memory."""
        shape = (*self.image_size, self.channels)
        first = [self.read(0)] if len(self) else []  # before memory is taken for images of this shape
        pixels = np.empty((len(self), *shape), np.uint8)
        for index in range(len(self)):
            pixels[index] = self.read(index) if index else first[0]
        return LabeledImages(pixels, self.labels, self.classes, self.files, origins=tuple(self.manifest["origin"]))


def pool_facts(root: Path) -> PoolFacts:
    """The record of a finished pool, whose files are not looked at."""
    return typed(storage.recorded_metadata(root), POOL_FACTS, where=root / storage.DONE)


def without_blind(pool: Pool) -> tuple[Pool, str]:
    """The pool without images of its blind classes, as the evaluation uses it, and a sentence if there are any."""
    counts = pool.counts_by_name
    names = tuple(name for name in blind_classes(pool) if counts[name])
    if not names:
        return pool, ""
    count = sum(counts[name] for name in names)
    said = f"{count} synthetic images are left out, since nothing shows that they belong to their class: "
    return replace(pool, left_out=names), said + listed(names, shown=SHOWN)


def blind_classes(pool: Pool) -> tuple[str, ...]:
    """The classes whose synthetic images nothing confirms; `pool.power.classes[name].blind` has the reasons.

    They are all classes if the generator has not learned the images, and none if the power was not measured.
    """
    if pool.power is None:
        return ()
    return tuple(name for name, power in pool.power.classes.items() if power.blind or pool.power.unlearned)


def verify_pool(path: str | Path) -> list[Problem]:
    """Every file of a finished pool that is missing, changed or foreign, by name, even of one too damaged to open."""
    root = _root(Path(path))
    changes = _undisturbed(root, storage.changes_since_commit)
    is_or_was_pool = (root / MANIFEST).is_file() or MANIFEST in changes or changes.get(storage.DONE) == "changed"
    if not is_or_was_pool:
        raise _unfinished(Path(path))
    return [Problem(file, what) for file, what in changes.items()]


def _root(path: Path) -> Path:
    """The pool of a study, or `path` itself, which may be a pool with a folder for a class named `pool`."""
    is_pool = (path / storage.DONE).is_file() or (path / MANIFEST).is_file()
    return path if is_pool or not (path / "pool").is_dir() else path / "pool"


def _undisturbed(root: Path, look: Callable[[Path], T]) -> T:
    """The result of `look`, repeated if another process replaced the pool meanwhile."""
    while True:
        before = _inode(root)
        try:
            seen = look(root)
        except (DamagedError, FileNotFoundError):
            if _inode(root) == before:
                raise
        else:
            if _inode(root) == before:
                return seen


def _inode(root: Path) -> int | None:
    return root.stat().st_ino if root.exists() else None


def _unfinished(path: Path) -> UsageError:
    study = path.parent if path.name == "pool" else path
    return UsageError("there is no finished pool here", where=path, fix=f"diffaug generate {shlex.quote(str(study))}")
