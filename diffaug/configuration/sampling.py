"""How images are sampled. All defaults of sampling stand here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from diffaug.errors import UsageError

Solver = Literal["dpm_solver_2m", "heun", "ipndm", "ancestral", "euler"]
GuidanceMethod = Literal["classifier_free", "autoguidance"]
Steps = Annotated[int, Field(ge=1, le=1000)]
Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Interval = tuple[Scale, Scale]
"""Lowest and highest noise level, both included."""


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keywords."""

    solver: Solver
    num_inference_steps: int
    guidance_method: GuidanceMethod
    guidance_scale: float
    guidance_interval: Interval


class Sampling(BaseModel):
    """How images are sampled.

    Attributes:
        num_inference_steps: Solver steps from pure noise. Each costs one pass of the network, with Heun two.
        guidance_method: Away from the average of all classes, or from an early version of the model.
        guidance_scale: 1 samples the class as learned, in one pass. Larger values trade diversity for typicality.
        guidance_interval: Noise levels at which classifier-free guidance acts; a step there costs two passes.
            Default: that of EDM2-XXL (Kynkaanniemi et al. 2024, arXiv 2404.07724).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    solver: Solver = "dpm_solver_2m"
    num_inference_steps: Steps = 12
    guidance_method: GuidanceMethod = "classifier_free"
    guidance_scale: Scale = 1.0
    guidance_interval: Interval = (0.28, 1.6)

    @field_validator("guidance_interval")
    @classmethod
    def _ascending(cls, interval: Interval) -> Interval:
        if interval[0] > interval[1]:
            raise ValueError("give the lower end of the range first")
        return interval

    @classmethod
    def of(cls, **options: Unpack[SamplingOptions]) -> Sampling:
        """The sampling with these options; an unknown one, or one out of range, is a `UsageError`."""
        try:
            return cls(**options)
        except ValidationError as error:
            first = error.errors()[0]
            name, message = first["loc"][0], first["msg"].removeprefix("Value error, ")
            defaults = DEFAULT_SAMPLING.model_dump()
            fix = f"default: {defaults[name]!r}" if name in defaults else f"options: {', '.join(defaults)}"
            raise UsageError(f"sampling option '{name}': {message}, got {first['input']!r}", fix=fix) from error


DEFAULT_SAMPLING = Sampling()
