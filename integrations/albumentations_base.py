"""What the albumentations transforms share, for albumentations and AlbumentationsX, which draws in another way."""

import os
import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch.utils.data import get_worker_info

from diffaug.augment.lookup import OnProblem, PoolLookup, must_skip, pool_path, replaceable_format, usable_pool
from diffaug.augment.transforms.mixing import Mixture
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


class PoolSchema(BaseTransformInitSchema):  # type: ignore[misc]
    """Checks the arguments that all have in common."""

    pool: Annotated[str, BeforeValidator(pool_path)]
    on_annotations: OnProblem
    include_blind: bool


class FromPool(A.ImageOnlyTransform):  # type: ignore[misc]
    """Changes an image with the help of one in a pool, which it chooses by another key of the item.

    What is sampled are file and sha256 of the image, so a replay needs no pixels, and repeats it whatever else the pool
    gains or loses.
    """

    _worker_seed: int | None

    if hasattr(A.BasicTransform, "sample_parameters"):  # AlbumentationsX from 2.4 on, which refuses the older hook

        def sample_parameters(self, params: dict[str, Any], data: dict[str, Any], targets: Any, sampling: Any) -> Any:
            """Draws what `apply` needs."""
            return A.SampledParams(params=self._draw(data, sampling.random_generator))

    else:

        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            """Draws what `apply` needs."""
            return self._draw(data, self.random_generator)

        def __call__(self, *args: Any, force_apply: bool = False, **kwargs: Any) -> Any:
            """Applies the transform with random numbers of the present DataLoader worker."""
            worker = get_worker_info()
            if worker is not None and worker.seed != self._worker_seed:
                self._worker_seed = worker.seed
                own_seed = self.seed or 0
                self.random_generator = numpy_generator(worker.seed, "albumentations", own_seed)
                self.py_random = random.Random(derive_seed(worker.seed, "albumentations p", own_seed))  # noqa: S311
            return super().__call__(*args, force_apply=force_apply, **kwargs)

    def _begin(self, lookup: PoolLookup, key: str, on_annotations: OnProblem, include_blind: bool, p: float) -> None:
        """Sets what all have in common, in place of a constructor, whose arguments albumentations would save."""
        self._key, self._lookup = key, lookup  # the base class reads the key in its constructor
        super().__init__(p=p)
        self.pool, self.on_annotations, self.include_blind = lookup.path, on_annotations, include_blind
        self._other_targets: frozenset[str] = UNREPLACEABLE
        self._worker_seed = None
        usable_pool(Pool.open(lookup.path), include_blind=include_blind)  # a wrong path fails here and not in a worker

    @property
    def targets_as_params(self) -> list[str]:
        """The key is needed to choose an image."""
        return [self._key]

    def add_targets(self, additional_targets: dict[str, str]) -> None:
        """Records further targets of the pipeline; none of them can follow the change."""
        self._other_targets |= additional_targets.keys()

    def apply(
        self,
        img: NDArray[Any],
        pool_image: Sequence[str] | None = None,
        kept: float = 0.0,
        box: tuple[float, ...] = (),
        **params: Any,
    ) -> NDArray[Any]:
        """The image of the pool in the format of `img`, or mixed with it; `img` itself if there is none."""
        if pool_image is None:
            return img
        pixels = self._lookup.read(self._lookup.position_of(pool_image))
        synthetic = replaceable_format(img, self._lookup.where).convert(pixels)
        changed: NDArray[Any] = Mixture(kept, tuple(box)).apply(img, synthetic) if kept or box else synthetic
        return changed

    def apply_with_params(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """The item with image and key changed; a key that is a text can't be a target of albumentations 2.0.8."""
        changed = super().apply_with_params(params, *args, **kwargs)
        if self._key in kwargs:
            drawn = params if isinstance(params, dict) else params.params
            key, image = kwargs[self._key], drawn.get("pool_image")
            changed[self._key] = self._relabeled(key, image, drawn.get("kept", 1.0))
        return changed

    def _relabeled(self, key: Any, image: Sequence[str] | None, kept: float) -> Any:
        """The key as it is; a UsageError if a replay repeats an image that was chosen by another one."""
        if self.replay_mode and image and (position := self._lookup.position_of(image)) not in self._candidates(key):
            row = self._lookup.pool.manifest.iloc[position]
            origin = f", made from '{row['source']}'" if row["source"] else ""
            what = f"the replayed image is of the class '{row['label']}'{origin}, not {key!r}"
            fix = "replay it on items of the same class, and a variation on the same image"
            raise UsageError(what, where=self._lookup.where, fix=fix)
        return key

    @abstractmethod
    def _candidates(self, key: Any) -> NDArray[np.int64]:
        """Positions in the pool of the images that an image with this key may get."""

    def _draw(self, data: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """File and sha256 of the chosen image, or None."""
        stale = [key for key in data if key in self._other_targets and _holds_something(data[key])]
        if must_skip(stale, self.on_annotations, self._lookup.where):
            return {"pool_image": None}
        candidates = self._candidates(data[self._key])
        place = int(generator.random() * len(candidates))  # faster than `integers`
        return {"pool_image": self._lookup.pool.image_keys[candidates[place]] if len(candidates) else None}


def _holds_something(annotation: Any) -> bool:
    return annotation is not None and not (hasattr(annotation, "__len__") and len(annotation) == 0)
