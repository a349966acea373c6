"""Albumentations transforms that replace images by those of a pool, or mix them with these.

    A.Compose([SyntheticReplace(pool="runs/data", p=0.3), A.HorizontalFlip()])(image=image, label=label)

Works with albumentations and with AlbumentationsX, which draws parameters in another way. Needs
`pip install 'diffaug[albumentations]'`. Import this module before loading a pipeline saved with `A.save`.
"""

import os
import random
from collections.abc import Callable, Mapping
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
from diffaug.augment.transforms.mixing import Method, Mixer, Mixture, PartnerClass, require_mixing
from diffaug.augment.transforms.variation_lookup import VariationLookup
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


PoolPath = Annotated[str, BeforeValidator(pool_path)]
Numbering = Annotated[dict[str, int] | None, BeforeValidator(_class_to_idx)]


class _FromPool(A.ImageOnlyTransform):  # type: ignore[misc]
    """Changes an image with the help of one in a pool, which it chooses by another key of the item.

    All that is sampled are small numbers, so a replay needs no pixels.
    """

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
        self._worker_seed: int | None = None
        usable_pool(Pool.open(lookup.path), include_blind=include_blind)  # a wrong path fails here and not in a worker

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """The image, and the key that chooses."""
        return {**super().targets, self._key: self.apply_to_key}

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
        pool_index: int = NO_IMAGE,
        kept: float = 0.0,
        box: tuple[float, ...] = (),
        **params: Any,
    ) -> NDArray[Any]:
        """The image of the pool in the format of `img`, or mixed with it; `img` itself if there is none."""
        if pool_index == NO_IMAGE:
            return img
        synthetic = replaceable_format(img, self._lookup.where).convert(self._lookup.read(pool_index))
        changed: NDArray[Any] = Mixture(kept, tuple(box)).apply(img, synthetic)
        return changed

    def apply_to_key(self, key: Any, pool_index: int = NO_IMAGE, **params: Any) -> Any:
        """The key as it is; a UsageError if a replay repeats an image that was chosen by another one."""
        if self.replay_mode and pool_index != NO_IMAGE and pool_index not in self._candidates(key):
            row = self._lookup.pool.manifest.iloc[pool_index]
            what = f"the replayed image is of the class '{row['label']}', made from '{row['source']}', not of {key!r}"
            fix = "replay it on items of the same class, or of a variation on the same image"
            raise UsageError(what, where=self._lookup.where, fix=fix)
        return key

    def _candidates(self, key: Any) -> NDArray[np.int64]:
        """Positions in the pool of the images that an image with this key may get."""
        raise NotImplementedError

    def _draw(self, data: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """The position in the pool of the chosen image, or `NO_IMAGE`."""
        stale = [key for key in self._other_targets if _holds_something(data.get(key))]
        if must_skip(stale, self.on_annotations, self._lookup.where):
            return {"pool_index": NO_IMAGE}
        candidates = self._candidates(data[self._key])
        return {"pool_index": int(candidates[generator.integers(len(candidates))]) if len(candidates) else NO_IMAGE}


class SyntheticReplace(_FromPool):
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
        on_annotations: What to do with masks, boxes and other targets, which would no longer match a changed image.
            "skip" keeps the image unchanged.
        p: Probability of replacing, in [0, 1].
        include_blind: Whether images are used of classes, too, that nothing shows them to belong to. The evaluation
            does not use them.

    Raises:
        ValueError: In the constructor: an argument is invalid. In a call: there is no label.
        UsageError: In the constructor, also when a saved transform is loaded: there is no pool, or `class_to_idx` does
            not fit it. In a call: the label or the image type is unknown, or there are annotations.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Checks the arguments."""

        pool: PoolPath
        label_key: str
        class_to_idx: Numbering
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
        where = type(self).__name__
        lookup = PoolLookup(str(pool_path(pool)), class_to_idx, include_blind=include_blind, where=where)
        self._begin(lookup, label_key, on_annotations, include_blind, p)
        self.label_key, self.class_to_idx, self.on_unknown_label = label_key, class_to_idx, on_unknown_label
        lookup.require_known_names(on_unknown_label)

    def _candidates(self, key: Any) -> NDArray[np.int64]:
        return self._lookup.candidates(key, self.on_unknown_label)


class SyntheticMix(SyntheticReplace):
    """Mixes the image with a random synthetic one by MixUp or CutMix, and makes its label soft.

    Every label that comes out is soft, also that of an image that is not mixed: float32 (K,), where K is one more than
    the largest label in `class_to_idx`. So inside `A.OneOf` let all or none of the transforms make soft labels.

    Args:
        pool: As of `SyntheticReplace`, like the arguments that are not listed here.
        p: Probability of mixing, in [0, 1].
        method: "mixup" takes the weighted mean of the images, "cutmix" fills a box with the synthetic one.
        alpha: The weight of the image itself is drawn from Beta(alpha, alpha); 1 draws uniformly.
        partner_class: The class of the synthetic image, by name or label; or a mapping of class to that class. None:
            the class of the image itself, which leaves its label hard.

    Raises:
        ValueError: As of `SyntheticReplace`.
        UsageError: As of `SyntheticReplace`; or labels of the dataset are unknown, or the pool has no partners.
    """

    class InitSchema(SyntheticReplace.InitSchema):
        """Checks the arguments."""

        method: Method
        alpha: float
        partner_class: Any

    def __init__(
        self,
        pool: str | os.PathLike[str] | Pool,
        label_key: str = "label",
        on_unknown_label: OnProblem = "error",
        on_annotations: OnProblem = "error",
        p: float = 0.3,
        *,
        method: Method = "mixup",
        alpha: float = 1.0,
        partner_class: PartnerClass = None,
        class_to_idx: Mapping[str, int] | None = None,
        include_blind: bool = False,
    ) -> None:
        self._probability = p
        given = (pool, label_key, on_unknown_label, on_annotations)
        super().__init__(*given, 1.0, class_to_idx=class_to_idx, include_blind=include_blind)
        require_mixing(method, alpha, self._lookup.where)
        self._mixer = Mixer(self._lookup, partner_class)
        self.method, self.alpha, self.partner_class = method, alpha, self._mixer.partner_class

    def get_base_init_args(self) -> dict[str, Any]:
        """The probability of mixing; albumentations itself always applies the transform, for labels to be soft."""
        return {"p": self._probability}

    def get_transform_init_args(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_transform_init_args(), **self.get_base_init_args()}

    def apply_to_key(self, key: Any, pool_index: int = NO_IMAGE, kept: float = 1.0, **params: Any) -> Any:
        """The soft label."""
        return self._mixer.soft_label(key, None if pool_index == NO_IMAGE else pool_index, kept)

    def _candidates(self, key: Any) -> NDArray[np.int64]:
        return self._mixer.candidates(key, self.on_unknown_label)

    def _draw(self, data: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        drawn = super()._draw(data, generator)
        if generator.random() >= self._probability:
            return {"pool_index": NO_IMAGE}
        top, left = generator.random(2).tolist()
        kept = float(generator.beta(self.alpha, self.alpha))
        mixture = Mixture.drawn(self.method, kept, (top, left), data["image"].shape[:2])
        return {**drawn, "kept": mixture.kept, "box": list(mixture.box)}


class SyntheticVariation(_FromPool):
    """Replaces the image by one of its own variations in the pool: the same picture, somewhat changed.

    As DA-Fusion uses variations (Trabucco et al. 2023, arXiv 2302.07944). They were made by `diffaug generate`, by
    default for rare classes only; the setting `synthesis.variation_fraction` makes more. An image without variations is
    kept. The model is never run.

    Args:
        pool: As of `SyntheticReplace`, like the arguments that are not listed here.
        path_key: Key of the path of the image, which is known by its end, such as `cat/1.png`.
        on_unknown_path: What to do with an image that the generator of the study has not seen.
        p: Probability of replacing, in [0, 1].

    Raises:
        ValueError: In the constructor: an argument is invalid. In a call: there is no path.
        UsageError: In the constructor: there is no pool, or it has no variations. In a call: the path or the image type
            is unknown, or there are annotations.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Checks the arguments."""

        pool: PoolPath
        path_key: str
        on_unknown_path: OnProblem
        on_annotations: OnProblem
        include_blind: bool

    def __init__(
        self,
        pool: str | os.PathLike[str] | Pool,
        path_key: str = "path",
        on_unknown_path: OnProblem = "error",
        on_annotations: OnProblem = "error",
        p: float = 0.5,
        *,
        include_blind: bool = False,
    ) -> None:
        lookup = VariationLookup(str(pool_path(pool)), include_blind=include_blind, where=type(self).__name__)
        self._begin(lookup, path_key, on_annotations, include_blind, p)
        self.path_key, self.on_unknown_path = path_key, on_unknown_path
        self._variations = lookup
        lookup.require_variations()

    def _candidates(self, key: Any) -> NDArray[np.int64]:
        return self._variations.variations(key, self.on_unknown_path)


def _holds_something(annotation: Any) -> bool:
    return annotation is not None and not (hasattr(annotation, "__len__") and len(annotation) == 0)
