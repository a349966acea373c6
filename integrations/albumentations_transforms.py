"""Albumentations transforms that replace images by those of a pool, or mix them with these.

    A.Compose([SyntheticReplace(pool="runs/data", p=0.3), A.HorizontalFlip()])(image=image, label=label)

Works with albumentations and with AlbumentationsX. Needs `pip install 'diffaug[albumentations]'`. Import this module
before loading a pipeline saved with `A.save`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from diffaug.augment.lookup import OnProblem, PoolLookup, checked_class_to_idx, pool_path
from diffaug.augment.transforms.mixing import Method, Mixer, Mixture, PartnerClass, require_mixing
from diffaug.augment.transforms.variation_lookup import VariationLookup
from diffaug.errors import UsageError
from diffaug.integrations.albumentations_base import FromPool, PoolSchema
from diffaug.synthesis.pool.pool import Pool


def _class_to_idx(given: Any) -> dict[str, int] | None:
    try:
        return checked_class_to_idx(given)
    except UsageError as error:  # albumentations passes on nothing but ValueError
        raise ValueError(str(error)) from error


class SyntheticReplace(FromPool):
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

    class InitSchema(PoolSchema):
        """Checks the arguments."""

        label_key: str
        class_to_idx: Annotated[dict[str, int] | None, BeforeValidator(_class_to_idx)]
        on_unknown_label: OnProblem

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

    def _relabeled(self, key: Any, image: Sequence[str] | None, kept: float) -> Any:
        return self._mixer.soft_label(key, self._lookup.position_of(image) if image else None, kept)

    def _candidates(self, key: Any) -> NDArray[np.int64]:
        return self._mixer.candidates(key, self.on_unknown_label)

    def _draw(self, data: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        drawn = super()._draw(data, generator)
        if generator.random() >= self._probability:
            return {"pool_image": None}
        top, left = generator.random(2).tolist()
        kept = float(generator.beta(self.alpha, self.alpha))
        mixture = Mixture.drawn(self.method, kept, (top, left), data["image"].shape[:2])
        return {**drawn, "kept": mixture.kept, "box": list(mixture.box)}


class SyntheticVariation(FromPool):
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

    class InitSchema(PoolSchema):
        """Checks the arguments."""

        path_key: str
        on_unknown_path: OnProblem

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
