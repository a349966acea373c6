"""Finds routes: those of diffaug, and those that packages add."""

from __future__ import annotations

from importlib.metadata import entry_points

from diffaug.configuration.routes import ROUTES
from diffaug.errors import DiffaugError, UsageError
from diffaug.stages.fitting.routes.cascade import CascadeRoute
from diffaug.stages.fitting.routes.latent import LatentRoute
from diffaug.stages.fitting.routes.pixels import PixelRoute
from diffaug.stages.fitting.routes.route import Route


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
