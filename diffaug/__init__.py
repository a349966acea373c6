"""diffaug: generative augmentation for small, imbalanced image sets, with an honest verdict."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffaug.augment.dataset import AugmentedDataset as AugmentedDataset
    from diffaug.augment.labels import get_targets as get_targets
    from diffaug.augment.mixed_batches import MixedBatchSampler as MixedBatchSampler
    from diffaug.augment.transforms import SyntheticReplace as SyntheticReplace
    from diffaug.augmenter import DiffusionAugmenter as DiffusionAugmenter
    from diffaug.diffusion.artifact import Generator as Generator
    from diffaug.errors import DiffaugError as DiffaugError
    from diffaug.evaluation.summary import EvaluationResult as EvaluationResult
    from diffaug.seeding import seed_worker as seed_worker
    from diffaug.settings import Config as Config
    from diffaug.synthesis.encoder import ModuleEncoder as ModuleEncoder
    from diffaug.synthesis.encoder import timm_encoder as timm_encoder
    from diffaug.synthesis.pool import Pool as Pool

__version__ = "0.1.0"

_HOMES = {
    "AugmentedDataset": "diffaug.augment.dataset",
    "Config": "diffaug.settings",
    "DiffaugError": "diffaug.errors",
    "DiffusionAugmenter": "diffaug.augmenter",
    "EvaluationResult": "diffaug.evaluation.summary",
    "Generator": "diffaug.diffusion.artifact",
    "MixedBatchSampler": "diffaug.augment.mixed_batches",
    "ModuleEncoder": "diffaug.synthesis.encoder",
    "Pool": "diffaug.synthesis.pool",
    "SyntheticReplace": "diffaug.augment.transforms",
    "get_targets": "diffaug.augment.labels",
    "seed_worker": "diffaug.seeding",
    "timm_encoder": "diffaug.synthesis.encoder",
}

__all__ = [
    "AugmentedDataset",
    "Config",
    "DiffaugError",
    "DiffusionAugmenter",
    "EvaluationResult",
    "Generator",
    "MixedBatchSampler",
    "ModuleEncoder",
    "Pool",
    "SyntheticReplace",
    "__version__",
    "get_targets",
    "seed_worker",
    "timm_encoder",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import diffaug` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'diffaug' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
