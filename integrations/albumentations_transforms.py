"""albumentations transforms that look images up in a pool.

    A.Compose([SyntheticReplace(pool="runs/data", p=0.3), A.HorizontalFlip()])(image=image, label=label)

Needs `pip install 'diffaug[albumentations]'`. A pipeline saved with `A.save` can be loaded once this module
has been imported.
"""

from __future__ import annotations

import os
import random
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch.utils.data import get_worker_info

from diffaug.augment.forms import ImageForm
from diffaug.errors import MissingExtraError, UsageError
from diffaug.seeding import derive_seed, numpy_generator
from diffaug.synthesis.pool import Pool

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks a server for news when imported
try:
    import albumentations as A  # noqa: N812  (the name everyone gives it)
except ModuleNotFoundError as error:
    if error.name != "albumentations":
        raise
    raise MissingExtraError.of("albumentations", "albumentations") from error
from albumentations.core.transforms_interface import BaseTransformInitSchema

UNREPLACEABLE = frozenset({"images", "volume", "volumes", "mask", "masks", "mask3d", "masks3d", "bboxes", "keypoints"})
CACHED_IMAGES = 128
NO_IMAGE = -1

OnProblem = Literal["error", "skip"]


def _pool_path(value: Any) -> Any:
    if isinstance(value, Pool):
        return str(value.root)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class SyntheticReplace(A.ImageOnlyTransform):  # type: ignore[misc]
    """Replaces the image by a random synthetic one of its own class.

    The synthetic image is resized to the height and width of the image it replaces and converted to its type
    (uint8, or floating in [0, 1]) and channels (HW, HW1 or HW3). An image whose class has no synthetic images
    passes through. The model is never run: images are read from the pool, which each process opens at its
    first use.

    Draws differ between DataLoader workers and between epochs, also in albumentations 2.0.8, whose own
    transforms repeat one stream in each of them.

    Args:
        pool: Path of a pool or of its study, or an open pool. Kept as a string.
        label_key: Key under which the label is passed: an index into the pool's classes, or a class name.
        on_unknown_label: What to do about a label that is not among the pool's classes.
        on_annotations: What to do about masks, boxes, keypoints, further images and other targets, which would
            no longer fit a replaced image. "skip" leaves the item as it is.
        p: Probability of replacing, in [0, 1].

    Targets:
        image

    Raises:
        ValueError: When built with a wrong argument, or called without a label.
        UsageError: When called: there is no pool, the label or the image type is unknown, or there are
            annotations.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Checks the arguments."""

        pool: Annotated[str, BeforeValidator(_pool_path)]
        label_key: str
        on_unknown_label: OnProblem
        on_annotations: OnProblem

    def __init__(
        self,
        pool: str | os.PathLike[str] | Pool,
        label_key: str = "label",
        on_unknown_label: OnProblem = "error",
        on_annotations: OnProblem = "error",
        p: float = 0.3,
    ) -> None:
        self.label_key = label_key  # the base class asks for it while it is built
        super().__init__(p=p)
        self.pool = pool
        self.on_unknown_label = on_unknown_label
        self.on_annotations = on_annotations
        self._other_targets: frozenset[str] = UNREPLACEABLE
        self._source: _PoolReader | None = None
        self._worker_seed: int | None = None

    @property
    def targets_as_params(self) -> list[str]:
        """The label is needed to choose an image."""
        return [self.label_key]

    def add_targets(self, additional_targets: dict[str, str]) -> None:
        """Notes further targets of the pipeline; none of them can follow the replacement."""
        self._other_targets |= additional_targets.keys()

    def apply(self, img: NDArray[Any], pool_index: int = NO_IMAGE, **params: Any) -> NDArray[Any]:
        """The pool's image in the form of `img`, or `img` itself where there is none."""
        if pool_index == NO_IMAGE:
            return img
        form = ImageForm.of(img)
        if form is None:
            raise UsageError(
                f"can't replace an image of shape {img.shape} and type {img.dtype}",
                where=type(self).__name__,
                fix="place it before Normalize, where images are uint8 or floats in [0, 1] of 1 or 3 channels",
            )
        replacement: NDArray[Any] = form.convert(self._reader.read(pool_index))
        return replacement

    if hasattr(A.BasicTransform, "sample_parameters"):  # AlbumentationsX from 2.4 on

        def sample_parameters(self, params: Any, data: dict[str, Any], targets: Any, sampling: Any) -> Any:
            """Chooses the synthetic image; it is the only thing sampled, so a replay needs no pixels."""
            return A.SampledParams(params={"pool_index": self._choose(data, sampling.random_generator)})

    else:

        def __call__(self, *args: Any, force_apply: bool = False, **kwargs: Any) -> Any:
            """Applies the transform, with random numbers of the DataLoader worker that it runs in."""
            self._follow_worker()
            return super().__call__(*args, force_apply=force_apply, **kwargs)

        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            """Chooses the synthetic image; it is the only thing sampled, so a replay needs no pixels."""
            return {"pool_index": self._choose(data, self.random_generator)}

        def _follow_worker(self) -> None:
            worker = get_worker_info()
            if worker is None or worker.seed == self._worker_seed:
                return
            self._worker_seed = worker.seed
            own_seed = self.seed or 0
            self.random_generator = numpy_generator(worker.seed, "albumentations", own_seed)
            self.py_random = random.Random(derive_seed(worker.seed, "albumentations p", own_seed))  # noqa: S311

    def _choose(self, data: dict[str, Any], generator: np.random.Generator) -> int:
        """Position in the pool of the image to use, `NO_IMAGE` for none."""
        stale = sorted(key for key in self._other_targets if _holds_something(data.get(key)))
        if stale:
            return self._problem(
                self.on_annotations,
                f"{', '.join(stale)} would no longer fit the image once it is replaced",
                "pass images without annotations, or set on_annotations='skip'",
            )
        label = _plain(data[self.label_key])
        class_index = self._reader.class_index(label)
        if class_index is None:
            return self._problem(
                self.on_unknown_label,
                f"label {label!r} is not one of the pool's classes {list(self._reader.pool.classes)}",
                "pass the class name or its index in that order, or set on_unknown_label='skip'",
            )
        candidates = self._reader.pool.indices_of(class_index)
        return int(generator.choice(candidates)) if len(candidates) else NO_IMAGE

    def _problem(self, reaction: OnProblem, what: str, fix: str) -> int:
        if reaction == "error":
            raise UsageError(what, where=type(self).__name__, fix=fix)
        return NO_IMAGE

    @property
    def _reader(self) -> _PoolReader:
        if self._source is None:
            self._source = _PoolReader(str(self.pool))
        return self._source

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}


class _PoolReader:
    """An open pool with its most recently used images."""

    def __init__(self, path: str) -> None:
        self.pool = Pool.open(path)
        self.read = lru_cache(CACHED_IMAGES)(self.pool.read)

    def class_index(self, label: Any) -> int | None:
        """Index of a class given by name or index."""
        if isinstance(label, str):
            return self.pool.class_to_idx.get(label)
        known = isinstance(label, int) and 0 <= label < len(self.pool.classes)
        return label if known else None


def _plain(label: Any) -> Any:
    """A NumPy or torch scalar as a Python one."""
    array = np.asarray(label)
    return array.item() if array.size == 1 else label


def _holds_something(annotation: Any) -> bool:
    return annotation is not None and not (hasattr(annotation, "__len__") and len(annotation) == 0)
