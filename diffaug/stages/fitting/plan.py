"""Plans a training: what is decided from images and device, and what the speed measured here decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffaug.configuration.settings import Config
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.length import PilotPlan
from diffaug.diffusion.planning.planning import (
    PLAN,
    Plan,
    halve_batch_if_too_few_steps,
    precision_candidates,
    sees_enough_for_fine,
    set_length,
)
from diffaug.diffusion.planning.reasons import cost_of_size, explain
from diffaug.errors import UsageError
from diffaug.files.records import read_signed_record, write_signed_record
from diffaug.files.stage_records import stage_settings
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.judged import possible_pilot
from diffaug.stages.fitting.routes.by_name import choose_route
from diffaug.stages.fitting.routes.route import Route
from diffaug.stages.fitting.sources import with_sources
from diffaug.stages.job import Job

PLAN_FILE = "plan.json"
WITH_WEIGHTS = {"base_channels", "pilot", "holdout", "stop_on_copying", "pipeline_size"}
"""The advanced settings that the trained weights depend on."""
NO_TIME_FOR_PILOT = "no pilot: the training is too short to choose its length"


def generator_settings(config: Config) -> dict[str, Any]:
    """The settings that the trained weights depend on."""
    diffusion = config.diffusion.model_dump(mode="json")
    advanced = config.advanced.model_dump(mode="json", include=WITH_WEIGHTS)
    return {"seed": config.seed, **diffusion, **advanced}


def plan_training(job: Job, catalog: Catalog, *, measure: bool = False, renew: bool = False) -> Plan:
    """The plan that a training with these settings began with, else a new one at the speed measured now.

    All processes take part in measuring; the main one's plan counts. With `measure` the speed is measured also if the
    length is set in images, to report how long it takes; no decision depends on it. With `renew` an older plan, made of
    other images, does not count. More processes than images in a batch, or compiling that is set and fails, are a
    UsageError.
    """
    group = current()
    group.use_device(job.device)
    file = job.study.generator / PLAN_FILE
    begun = not renew and file.is_file() and stage_settings(job.study.generator) == generator_settings(job.config)
    stored = group.broadcast(PLAN.dump_python(read_plan(file.parent), mode="json") if begun else None)
    if stored is None:
        plan = _new_plan(job, catalog, measure=measure)
        plan = PLAN.validate_python(group.broadcast(PLAN.dump_python(plan, mode="json")))
    else:
        plan = PLAN.validate_python(stored)
        if plan.device != job.device:
            job.narrator.warn(f"this training was planned for {plan.device} and resumes on {job.device} as planned")
    job.narrator.say("plan:")
    for reason in plan.reasons:
        job.narrator.say(f"  {reason}")
    if cost := cost_of_size(plan):
        job.narrator.warn(cost)
    if group.size > 1:
        job.narrator.say(f"  {group.size} processes share each batch")
    if plan.batch_size < group.size:
        raise UsageError(
            f"a batch of {plan.batch_size} images can't be shared by {group.size} processes",
            fix=f"start fewer processes, or --set diffusion.batch_size={group.size}",
        )
    return plan


def write_plan(job: Job, plan: Plan) -> None:
    """Keeps the plan of a training that was begun."""
    write_signed_record(job.study.generator / PLAN_FILE, PLAN, plan)


def read_plan(folder: Path) -> Plan:
    """The plan that was kept in the folder of a generator; a DamagedError if it was changed or is gone."""
    return read_signed_record(folder / PLAN_FILE, PLAN)


def _new_plan(job: Job, catalog: Catalog, *, measure: bool) -> Plan:
    route, why = choose_route(job, catalog.images("train"))
    plan = plan_of_route(route, job, catalog, measure=measure)
    return replace(plan, reasons=(why, *plan.reasons))


def plan_of_route(route: Route, job: Job, catalog: Catalog, *, measure: bool) -> Plan:
    """The plan of a training by one route, at the speed measured now."""
    settings, images, pilot = job.config.diffusion, catalog.images("train"), possible_pilot(job, catalog)
    plan = with_sources(job, replace(route.plan(job, images), route=route.name), catalog)
    speed, decides = _Speed(job, images, route), settings.images_seen is None or settings.compile is True
    if decides or measure:
        job.narrator.say("measuring training speed ...")
    if decides:
        plan = speed.fastest(precision_candidates(plan, settings) if plan.unet else [plan])
    if plan.unet:
        plan = _fine_if_it_pays(job, plan, speed, with_pilot=isinstance(pilot, PilotPlan))
        plan = _with_enough_steps(job, plan, speed)
    if measure and not decides:
        plan = speed.fastest([plan])
    plan = set_length(plan, settings, len(images), pilot if isinstance(pilot, PilotPlan) else None)
    if plan.images_per_second:
        plan = replace(plan, seconds_besides=route.seconds_besides(job, images, plan))
    reasons = (*plan.reasons, *explain(plan, settings, images, route.expectation(plan)))
    if plan.pilot is None:
        reasons += (pilot if isinstance(pilot, str) else NO_TIME_FOR_PILOT,)
    return replace(plan, reasons=reasons)


def _fine_if_it_pays(job: Job, plan: Plan, speed: _Speed, *, with_pilot: bool) -> Plan:
    """For gray images the fine network instead of a small one, if it differs and can see enough images in the time."""
    settings = job.config.diffusion
    if plan.preset != "small" or plan.channels != 1 or settings.preset or plan.initial:
        return plan
    config = job.config.model_copy(update={"diffusion": settings.model_copy(update={"preset": "fine"})})
    planned = speed.route.plan(replace(job, resolved=replace(job.resolved, config=config)), speed.images)
    finer = replace(plan, unet=planned.unet, preset=planned.preset)
    if finer.unet == plan.unet:
        return plan
    if plan.images_per_second:
        finer = speed.fastest([finer])
    return finer if sees_enough_for_fine(finer, settings, with_pilot=with_pilot) else plan


def _with_enough_steps(job: Job, plan: Plan, speed: _Speed) -> Plan:
    """Halves the batch as long as there are too few steps and, if the speed counts, it does not suffer."""
    settings, smallest = job.config.diffusion, current().size
    while (smaller := halve_batch_if_too_few_steps(plan, settings, smallest)) != plan:
        if plan.images_per_second:
            smaller = speed.fastest([smaller])
            if smaller.images_per_second < defaults.KEPT_SPEED * plan.images_per_second:
                break
        plan = smaller
    return plan


@dataclass(frozen=True)
class _Speed:
    """Measures plans on the training images."""

    job: Job
    images: LabeledImages
    route: Route

    def fastest(self, candidates: Iterable[Plan]) -> Plan:
        """The fastest candidate with its speed. A later one must be faster by a tenth; each counts at its best."""
        measured: dict[tuple[str, bool], Plan] = {}
        for candidate in candidates:
            way = candidate.precision, candidate.compiled
            plan = replace(candidate, images_per_second=self._measure(candidate))
            measured[way] = max(measured.get(way, plan), plan, key=lambda one: one.images_per_second)
        best, *others = measured.values()
        for plan in others:
            if plan.images_per_second > defaults.WORTHWHILE_SPEEDUP * best.images_per_second:
                best = plan
        return best

    def _measure(self, plan: Plan) -> float:
        """Images per second of all processes together; 0 if the network can't be compiled."""
        group = current()
        try:
            speed = self.route.images_per_second(self.job, self.images, plan)
        except RuntimeError as error:
            if not plan.compiled:
                raise
            if self.job.config.diffusion.compile is True:
                raise UsageError(f"can't compile here: {error}", fix="--set diffusion.compile=false") from error
            self.job.narrator.warn(f"not compiled: {str(error).splitlines()[0]}")
            speed = 0.0
        return float(group.broadcast(speed))
