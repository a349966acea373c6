"""Which way to a generator a training takes, and why."""

from __future__ import annotations

import math

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import UsageError
from diffaug.stages.fitting.routes.by_name import route_by_name
from diffaug.stages.fitting.routes.route import Route
from diffaug.stages.job import Job

LARGE_SIDE = 64
"""Side of a square in px above which a cascade may pay. Set by hand; not yet measured, so it is no default there."""
PIXELS = "pixels"


def choose_route(job: Job, images: LabeledImages) -> tuple[Route, str]:
    """The route that is set or that a named folder asks for, else pixels; and why, in a sentence.

    Raises:
        UsageError: The one that is set, or that a named folder asks for, is not possible here.
    """
    name, why = _asked_for(job.config.diffusion) or (PIXELS, _why_pixels(images))
    route = route_by_name(name)
    if obstacle := route.possible(job, images):
        raise UsageError(f"the route '{name}' is not possible here: {obstacle}", fix=f"--route {PIXELS}")
    return route, f"route: {name}, {why}"


def _asked_for(settings: DiffusionSettings) -> tuple[str, str] | None:
    """The route that settings name, and why; None if they leave it open."""
    if settings.route != "auto":
        return settings.route, "as set"
    if settings.pipeline:
        return "pipeline", "because --pipeline names one"
    if settings.autoencoder:
        return "latent", "because --autoencoder names one"
    return (PIXELS, "because --init continues from a network for pixels") if settings.init else None


def _why_pixels(images: LabeledImages) -> str:
    if math.sqrt(math.prod(images.pixels.shape[1:3])) <= LARGE_SIDE:
        return f"the usual one for images of up to {LARGE_SIDE} px"
    return "the only one whose images were measured; --route cascade is another for images of this size"
