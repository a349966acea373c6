"""A torchvision transform that mixes images with those of a pool."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.augment.lookup import OnProblem
from diffaug.augment.transforms.base import Chosen
from diffaug.augment.transforms.mixing import Method, Mixer, Mixture, PartnerClass, require_mixing
from diffaug.augment.transforms.replace import SyntheticReplace
from diffaug.synthesis.pool.pool import Pool


class SyntheticMix(SyntheticReplace):
    """Mixes an image with a random synthetic one by MixUp or CutMix, and makes its label soft.

        transform = v2.Compose([SyntheticMix("runs/data", class_to_idx=dataset.class_to_idx), v2.RandomCrop(28)])
        image, label = transform(image, label)  # label: float32 (K,), 0.7 here and 0.3 there

    Takes what `SyntheticReplace` takes, and returns every label soft, also that of an image that is not mixed: float32
    (K,), or (N, K) of a batch, where K is one more than the largest label. Such labels suit `CrossEntropyLoss`.

    Args:
        pool: As of `SyntheticReplace`, like the arguments that are not listed here.
        p: Probability of mixing, in [0, 1].
        method: "mixup" takes the weighted mean of the images, "cutmix" fills a box with the synthetic one.
        alpha: The weight of the image itself is drawn from Beta(alpha, alpha); 1 draws uniformly.
        partner_class: The class of the synthetic image, by name or label; or a mapping of class to that class. None:
            the class of the image itself, which leaves its label hard.

    Raises:
        UsageError: As of `SyntheticReplace`; or labels of the dataset are unknown, or the pool has no partners.
    """

    def __init__(
        self,
        pool: Pool | str | os.PathLike[str],
        p: float = 0.3,
        *,
        method: Method = "mixup",
        alpha: float = 1.0,
        partner_class: PartnerClass = None,
        class_to_idx: Mapping[str, int] | None = None,
        on_unknown_label: OnProblem = "error",
        on_annotations: OnProblem = "error",
        include_blind: bool = False,
    ) -> None:
        super().__init__(
            pool,
            p,
            class_to_idx=class_to_idx,
            on_unknown_label=on_unknown_label,
            on_annotations=on_annotations,
            include_blind=include_blind,
        )
        require_mixing(method, alpha, self._lookup.where)
        self._mixer = Mixer(self._lookup, partner_class)
        self.method, self.alpha, self.partner_class = method, float(alpha), self._mixer.partner_class

    def _candidates(self, key: Any) -> NDArray[np.int64]:
        return self._mixer.candidates(key, self.on_unknown_label)

    def _mixture(self, size: tuple[int, int]) -> Mixture:
        kept = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        top, left = torch.rand(2).tolist()
        return Mixture.drawn(self.method, kept, (top, left), size)

    def _relabeled(self, label: Any, labels: list[Any], chosen: Chosen, *, is_batch: bool) -> torch.Tensor:
        how = [chosen.get(position, (None, Mixture(1.0))) for position in range(len(labels))]
        soft = [self._mixer.soft_label(own, index, mix.kept) for own, (index, mix) in zip(labels, how, strict=True)]
        made = torch.from_numpy(np.stack(soft)).to(getattr(label, "device", "cpu"))
        return made if is_batch else made[0]
