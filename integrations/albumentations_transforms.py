"""albumentations transforms that look images up in a pool.

    A.Compose([SyntheticReplace(pool="runs/data", p=0.3), A.HorizontalFlip()])(image=image, label=label)

Needs `pip install 'diffaug[albumentations]'`. A pipeline saved with `A.save` can be loaded once this module
has been imported.
"""

from __future__ import annotations

import os
import random
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch.utils.data import get_worker_info

from diffaug.augment.lookup import OnProblem, PoolLookup, must_skip, pool_path, replaceable_form
from diffaug.errors import MissingExtraError
from diffaug.runtime.seeding import derive_seed, numpy_generator
from diffaug.synthesis.pool.pool import Pool

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks a server for news when imported
try:
    import albumentations as A  # noqa: N812  (the name everyone gives it)
except ModuleNotFoundError as error:
    if error.name != "albumentations":
        raise
    raise MissingExtraError.of("albumentations", "albumentations") from error
from albumentations.core.transforms_interface import BaseTransformInitSchema

UNREPLACEABLE = frozenset({"images", "volume", "volumes", "mask", "masks", "mask3d", "masks3d", "bboxes", "keypoints"})
NO_IMAGE = -1


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

        pool: Annotated[str, BeforeValidator(pool_path)]
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
        self._lookup = PoolLookup(str(pool))
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
        replacement: NDArray[Any] = replaceable_form(img).convert(self._lookup.read(pool_index))
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
        stale = [key for key in self._other_targets if _holds_something(data.get(key))]
        if must_skip(stale, self.on_annotations):
            return NO_IMAGE
        candidates = self._lookup.candidates(data[self.label_key], self.on_unknown_label)
        return int(generator.choice(candidates)) if len(candidates) else NO_IMAGE


def _holds_something(annotation: Any) -> bool:
    return annotation is not None and not (hasattr(annotation, "__len__") and len(annotation) == 0)
