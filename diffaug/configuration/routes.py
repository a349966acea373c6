"""The names of the ways to a generator."""

from importlib.metadata import entry_points

OWN_ROUTES, ROUTES = ("pixels", "cascade", "latent"), "diffaug.routes"
"""Routes of diffaug itself, and the group of entry points that names others."""


def route_names() -> tuple[str, ...]:
    """The ways to a generator: those of diffaug, then those that packages add."""
    added = entry_points(group=ROUTES)
    return tuple(dict.fromkeys((*OWN_ROUTES, *sorted(added.names))))
