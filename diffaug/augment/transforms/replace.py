"""A torchvision transform that replaces images by those of a pool."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.augment.lookup import OnProblem, PoolLookup, checked_class_to_idx, pool_path
from diffaug.augment.transforms.base import FromPool, require_reaction
from diffaug.synthesis.pool.pool import Pool


class SyntheticReplace(FromPool):
    """Replaces an image by a random synthetic one of its own class.

        transform = v2.Compose([SyntheticReplace("runs/data", p=0.3), v2.RandomCrop(28)])
        image, label = transform(image, label)

    Takes one sample or, like MixUp and CutMix, a batch (N, C, H, W) with its N labels, where each image is replaced
    independently. A sample is (image, label, ...), as several arguments or one tuple or list, or a mapping with them
    under names such as "image" and "label". Everything but the image passes through.

    An image is PIL, or a tensor or `tv_tensors.Image` (C, H, W), uint8 or floating in [0, 1]. The synthetic one takes
    its type, size, channels and device. An image whose class has no synthetic images is kept. The model is never run:
    images are read from the pool, which each process opens itself. Random numbers come from torch's global generator.

    Args:
        pool: A pool, or the path of one or of its study.
        p: Probability of replacing, in [0, 1].
        class_to_idx: Class name to label of your dataset, as in `dataset.class_to_idx`. Default: that of the dataset
            that the pool was made from. Class names as labels need none, nor do classes 0 to 9 or fewer.
        on_unknown_label: What to do with a label, or a name in `class_to_idx`, that is not a class of the pool.
        on_annotations: What to do with boxes, masks and further images, which would no longer match a changed image:
            `tv_tensors` that are not empty, and PIL images. "skip" keeps the image unchanged.
        include_blind: Whether images are used of classes, too, that nothing shows them to belong to. The evaluation
            does not use them.

    Raises:
        UsageError: There is no pool, an argument is invalid, or a call gets a sample that it can't change.
    """

    def __init__(
        self,
        pool: Pool | str | os.PathLike[str],
        p: float = 0.3,
        *,
        class_to_idx: Mapping[str, int] | None = None,
        on_unknown_label: OnProblem = "error",
        on_annotations: OnProblem = "error",
        include_blind: bool = False,
    ) -> None:
        where = type(self).__name__
        require_reaction("on_unknown_label", on_unknown_label, where)
        numbering = checked_class_to_idx(class_to_idx, where)
        lookup = PoolLookup(str(pool_path(pool)), numbering, include_blind=include_blind, where=where)
        super().__init__(lookup, p, on_annotations, include_blind)
        self.class_to_idx, self.on_unknown_label = numbering, on_unknown_label
        lookup.require_known_names(on_unknown_label)

    def _candidates(self, key: Any) -> NDArray[np.int64]:
        return self._lookup.candidates(key, self.on_unknown_label)
