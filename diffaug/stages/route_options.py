"""All routes compared: what each one costs here, and what to expect of it."""

from __future__ import annotations

from diffaug.data.catalog import Catalog
from diffaug.diffusion.planning.costs import RouteOption
from diffaug.diffusion.planning.planning import Plan
from diffaug.errors import DiffaugError
from diffaug.runtime.console import duration
from diffaug.stages.fitting.plan import plan_of_route
from diffaug.stages.fitting.routes.by_name import all_routes
from diffaug.stages.fitting.routes.route import Route
from diffaug.stages.job import Job

COLUMNS = ("route", "trained at", "at most", "memory", "what to expect, or why it is not possible")


def compare_routes(job: Job, catalog: Catalog, plan: Plan) -> tuple[RouteOption, ...]:
    """What each route would cost; the chosen one by its plan, others by one of their own, at the speed measured now."""
    return tuple(_option(route, job, catalog, plan) for route in all_routes().values())


def show_routes(job: Job, plan: Plan) -> None:
    """Prints the options of a plan as a table."""
    rows = []
    for option in plan.options:
        size = "" if option.trained_size is None else "{1} x {0} {2}".format(*option.trained_size, option.trained_unit)
        rows.append(
            [
                f"{option.name} (chosen)" if option.name == plan.route else option.name,
                size,
                duration(option.seconds) if option.seconds else "",
                f"{option.memory / 2**30:.1f} GB" if option.memory else "",
                option.obstacle or option.expectation,
            ]
        )
    job.narrator.table("Routes", list(COLUMNS), rows)


def _option(route: Route, job: Job, catalog: Catalog, chosen: Plan) -> RouteOption:
    if obstacle := route.possible(job, catalog.images("train")):
        return RouteOption(route.name, obstacle)
    try:
        plan = chosen
        if route.name != chosen.route:
            job.narrator.say(f"looking at the route {route.name} ...")
            plan = plan_of_route(route, job, catalog, measure=True)
        memory, expectation = route.bytes_needed(plan), route.expectation(plan)
    except DiffaugError as error:
        return RouteOption(route.name, str(error))
    longest = plan.expected_seconds
    if longest is not None and plan.seconds is not None:
        longest = min(longest, plan.seconds)
    size = plan.unet.image_size if plan.unet else plan.image_size
    return RouteOption(route.name, "", size, plan.unit, longest, memory, expectation)
