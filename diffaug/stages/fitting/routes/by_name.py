"""Finds routes, those of diffaug and those that packages add, and says which one a training takes and why."""

from __future__ import annotations

import math
from importlib.metadata import entry_points

from diffaug.configuration.routes import ROUTES
from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DiffaugError, UsageError
from diffaug.stages.fitting.routes.cascade import CascadeRoute
from diffaug.stages.fitting.routes.latent import LatentRoute
from diffaug.stages.fitting.routes.pixels import PixelRoute
from diffaug.stages.fitting.routes.route import Route
from diffaug.stages.job import Job

LARGE_SIDE = 64
"""Side of a square in px above which a cascade may pay. Set by hand; not yet measured, so it is no default there."""
PIXELS = "pixels"


def all_routes() -> dict[str, Route]:
    """All routes by name, the simplest first."""
    own: tuple[Route, ...] = (PixelRoute(), CascadeRoute(), LatentRoute())
    routes = {route.name: route for route in own}
    for point in sorted(entry_points(group=ROUTES), key=lambda point: point.name):
        route: Route = point.load()()
        if route.name != point.name:
            raise DiffaugError(f"the entry point '{point.name}' is the route '{route.name}'", where=ROUTES)
        routes[point.name] = route
    return routes


def route_by_name(name: str) -> Route:
    """The route of a plan; a UsageError if its package is not installed."""
    routes = all_routes()
    if name not in routes:
        what = f"the route '{name}' is not installed; known are {', '.join(routes)}"
        raise UsageError(what, fix="install the package that has it, or --route auto")
    return routes[name]


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
