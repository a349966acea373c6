"""An albumentations transform that replaces images by those of a pool.

    A.Compose([SyntheticReplace(pool="runs/data", p=0.3), A.HorizontalFlip()])(image=image, label=label)

Needs `pip install 'diffaug[albumentations]'`. Import this module before loading a pipeline saved with `A.save`.
"""

import os
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch.utils.data import get_worker_info

from diffaug.augment.lookup import (
    OnProblem,
    PoolLookup,
    checked_class_to_idx,
    must_skip,
    pool_path,
    replaceable_format,
    usable_pool,
)
from diffaug.errors import MissingExtraError, UsageError
from diffaug.runtime.seeding import derive_seed, numpy_generator
from diffaug.synthesis.pool.pool import Pool

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else albumentations contacts a server when imported
try:
    import albumentations as A  # noqa: N812  (the usual name)
except ModuleNotFoundError as error:
    if error.name != "albumentations":
        raise
    raise MissingExtraError.of("albumentations", "albumentations") from error
from albumentations.core.transforms_interface import BaseTransformInitSchema

UNREPLACEABLE = frozenset({"images", "volume", "volumes", "mask", "masks", "mask3d", "masks3d", "bboxes", "keypoints"})
NO_IMAGE = -1


def _class_to_idx(given: Any) -> dict[str, int] | None:
    try:
        return checked_class_to_idx(given)
    except UsageError as error:  # albumentations passes on nothing but ValueError
        raise ValueError(str(error)) from error


class SyntheticReplace(A.ImageOnlyTransform):  # type: ignore[misc]
    """Replaces the image by a random synthetic one of its own class.

    The synthetic image takes the height, width, type (uint8, or floating in [0, 1]) and channels (HW, HW1 or HW3) of
    the image it replaces. An image whose class has no synthetic images is kept. The model is never run: images are
    read from the pool, which each process opens at its first use. Draws differ between DataLoader workers and epochs,
    also in albumentations 2.0.8, whose own transforms repeat one stream in all of them.

    Args:
        pool: Path of a pool or of its study, or an open pool. Kept as a string.
        label_key: Key of the label: a class name, or an integer as of `class_to_idx`.
        class_to_idx: Class name to label of your dataset, as in `dataset.class_to_idx`. Default: that of the dataset
            that the pool was made from. Class names as labels need none, nor do classes 0 to 9 or fewer.
        on_unknown_label: What to do with a label, or a name in `class_to_idx`, that is not a class of the pool.
        on_annotations: What to do with masks, boxes and other targets, which would no longer match a replaced image.
            "skip" keeps the item unchanged.
        p: Probability of replacing, in [0, 1].
        include_blind: Whether images are used of classes, too, that nothing shows them to belong to. The evaluation
            does not use them.

    Raises:
        ValueError: In the constructor: an argument is invalid. In a call: there is no label.
        UsageError: In the constructor: `class_to_idx` does not fit the pool.
            In a call: there is no pool, the label or the image type is unknown, or there are annotations.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Checks the arguments."""

        pool: Annotated[str, BeforeValidator(pool_path)]
        label_key: str
        class_to_idx: Annotated[dict[str, int] | None, BeforeValidator(_class_to_idx)]
        on_unknown_label: OnProblem
        on_annotations: OnProblem
        include_blind: bool

    def __init__(
        self,
        pool: str | os.PathLike[str] | Pool,
        label_key: str = "label",
        on_unknown_label: OnProblem = "error",
        on_annotations: OnProblem = "error",
        p: float = 0.3,
        *,
        class_to_idx: Mapping[str, int] | None = None,
        include_blind: bool = False,
    ) -> None:
        self.label_key = label_key  # the base class reads it in its constructor
        super().__init__(p=p)
        self.pool = pool
        self.class_to_idx = class_to_idx
        self.on_unknown_label = on_unknown_label
        self.on_annotations = on_annotations
        self._other_targets: frozenset[str] = UNREPLACEABLE
        self.include_blind = include_blind
        self._lookup = PoolLookup(str(pool), class_to_idx, include_blind=include_blind)
        self._lookup.require_known_names(on_unknown_label)
        with suppress(UsageError):  # a saved transform may be loaded before its pool is there
            usable_pool(Pool.open(str(pool)), include_blind=include_blind)
        self._worker_seed: int | None = None

    @property
    def targets_as_params(self) -> list[str]:
        """The label is needed to choose an image."""
        return [self.label_key]

    def add_targets(self, additional_targets: dict[str, str]) -> None:
        """Records further targets of the pipeline; none of them can follow the replacement."""
        self._other_targets |= additional_targets.keys()

    def apply(self, img: NDArray[Any], pool_index: int = NO_IMAGE, **params: Any) -> NDArray[Any]:
        """The image of the pool in the format of `img`, or `img` itself if there is none."""
        if pool_index == NO_IMAGE:
            return img
        replacement: NDArray[Any] = replaceable_format(img).convert(self._lookup.read(pool_index))
        return replacement

    def __call__(self, *args: Any, force_apply: bool = False, **kwargs: Any) -> Any:
        """Applies the transform with random numbers of the present DataLoader worker."""
        worker = get_worker_info()
        if worker is not None and worker.seed != self._worker_seed:
            self._worker_seed = worker.seed
            own_seed = self.seed or 0
            self.random_generator = numpy_generator(worker.seed, "albumentations", own_seed)
            self.py_random = random.Random(derive_seed(worker.seed, "albumentations p", own_seed))  # noqa: S311
        if self.replay_mode and self.label_key in kwargs:
            self._require_same_class(kwargs[self.label_key])
        return super().__call__(*args, force_apply=force_apply, **kwargs)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Chooses the synthetic image, which is all that is sampled, so a replay needs no pixels."""
        return {"pool_index": self._choose(data, self.random_generator)}

    def _require_same_class(self, label: Any) -> None:
        """Raises UsageError if the image that a replay repeats is of another class than the item."""
        index = (self.params or {}).get("pool_index", NO_IMAGE) if self.applied_in_replay else NO_IMAGE
        if index != NO_IMAGE and index not in self._lookup.candidates(label, self.on_unknown_label):
            what = f"the replayed image is of the class '{self._lookup.pool.manifest['label'][index]}', not {label!r}"
            raise UsageError(what, where="SyntheticReplace", fix="replay it on items of the same class")

    def _choose(self, data: dict[str, Any], generator: np.random.Generator) -> int:
        """Position in the pool of the chosen image, or `NO_IMAGE`."""
        stale = [key for key in self._other_targets if _holds_something(data.get(key))]
        if must_skip(stale, self.on_annotations):
            return NO_IMAGE
        candidates = self._lookup.candidates(data[self.label_key], self.on_unknown_label)
        return int(generator.choice(candidates)) if len(candidates) else NO_IMAGE


def _holds_something(annotation: Any) -> bool:
    return annotation is not None and not (hasattr(annotation, "__len__") and len(annotation) == 0)
