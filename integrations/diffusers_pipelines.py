"""Pretrained diffusers pipelines as generators of diffaug: what other code may use."""

from diffaug.integrations.pipelines.generator import PipelineGenerator

__all__ = ["PipelineGenerator"]
