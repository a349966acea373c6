"""A torchvision transform that replaces images by their variations in a pool."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.augment.formats import IMAGE_KEYS, what_is_held
from diffaug.augment.lookup import OnProblem, pool_path
from diffaug.augment.transforms.base import FromPool, items_of, require_reaction
from diffaug.augment.transforms.variation_lookup import VariationLookup
from diffaug.errors import UsageError
from diffaug.synthesis.pool.pool import Pool


class SyntheticVariation(FromPool):
    """Replaces an image by one of its own variations in the pool: the same picture, somewhat changed.

        transform = SyntheticVariation("runs/data", p=0.5)
        image, label, path = transform(image, label, path)

    As DA-Fusion uses variations (Trabucco et al. 2023, arXiv 2302.07944). They were made by `diffaug generate`, by
    default for rare classes only; the setting `synthesis.variation_fraction` makes more. An image without variations is
    kept. The model is never run.

    Takes what `SyntheticReplace` takes, but chooses by the path of the image instead of its label. A path is known by
    its end, such as `cat/1.png`. Everything but the image passes through.

    Args:
        pool: As of `SyntheticReplace`, like the arguments that are not listed here.
        p: Probability of replacing, in [0, 1].
        path_key: Name of the path, or paths of a batch, in a mapping or named tuple; otherwise the path comes last.
        on_unknown_path: What to do with an image that the generator of the study has not seen.

    Raises:
        UsageError: There is no pool, or it has no variations, an argument is invalid, or a call gets a sample that it
            can't change.
    """

    def __init__(
        self,
        pool: Pool | str | os.PathLike[str],
        p: float = 0.5,
        *,
        path_key: str = "path",
        on_unknown_path: OnProblem = "error",
        on_annotations: OnProblem = "error",
        include_blind: bool = False,
    ) -> None:
        where = type(self).__name__
        require_reaction("on_unknown_path", on_unknown_path, where)
        lookup = VariationLookup(str(pool_path(pool)), include_blind=include_blind, where=where)
        super().__init__(lookup, p, on_annotations, include_blind)
        lookup.require_variations()
        self._variations = lookup
        self.path_key, self.on_unknown_path = path_key, on_unknown_path

    def _parts(self, sample: Any) -> tuple[dict[Any, Any], Any, Any]:
        names = list(sample) if isinstance(sample, Mapping) else list(getattr(sample, "_fields", ()))
        image_at = next((key for key in IMAGE_KEYS if key in names), None)
        if image_at is not None and self.path_key in names:
            keys = (image_at, self.path_key)
            return dict(items_of(sample)), *(keys if isinstance(sample, Mapping) else map(names.index, keys))
        if isinstance(sample, tuple | list) and len(sample) > 1 and not names:
            return dict(items_of(sample)), 0, len(sample) - 1
        what = f"the path of the image is needed to find its variations, but only {what_is_held(sample)} was passed"
        fix = f"call it with (image, label, path), or with a mapping that has '{self.path_key}'"
        raise UsageError(what, where=self._lookup.where, fix=fix)

    def _candidates(self, key: Any) -> NDArray[np.int64]:
        return self._variations.variations(key, self.on_unknown_path)
