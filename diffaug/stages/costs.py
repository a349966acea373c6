"""Estimates what the stages after the training will take, from a few steps of each kind, and what each route costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diffaug.classifiers.encoders import by_name as encoders
from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.library import classifier_by_name, recipe_from_settings
from diffaug.classifiers.networks import small_cnn
from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet, default_updates
from diffaug.configuration.arms import Resources
from diffaug.configuration.sampling import Sampling
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.data.splits import FOLDS
from diffaug.diffusion.planning.costs import Costs, RouteOption, Seconds
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.errors import DataError, DiffaugError
from diffaug.evaluation.experiment.arms import ARMS, Arm
from diffaug.evaluation.experiment.choosing.choose import count_trainings
from diffaug.runtime.console import duration
from diffaug.runtime.parallel import MAX_WORKERS, one_thread_each
from diffaug.stages.evaluating.checks import require_evaluable
from diffaug.stages.evaluating.experiment import wants_pilot
from diffaug.stages.fitting.plan import plan_of_route, plan_training
from diffaug.stages.fitting.routes.by_name import all_routes, route_by_name
from diffaug.stages.fitting.routes.route import Route
from diffaug.stages.generating.backgrounds import background_class
from diffaug.stages.generating.request import requested_targets
from diffaug.stages.job import Job
from diffaug.synthesis.pool.making import RESAMPLINGS
from diffaug.synthesis.pool.origins import TRANSPLANT, Material, origin_fractions

FEWEST_ATTEMPTS, MOST_ATTEMPTS = 1.0, 2.0
"""Candidates per accepted image that are counted on."""
LEAST_SHARE, LARGEST_SHARE = 0.6, 1.6
"""By how much an evaluation differs from its estimate. Set by hand: arms and classifiers cost unlike amounts."""
ENOUGH_SECONDS = 0.5

COLUMNS = ("route", "trained at", "at most", "memory", "what to expect, or why it is not possible")


def plan_job(job: Job, catalog: Catalog, *, renew: bool) -> Plan:
    """The plan of the training, see `plan_training`, with the costs of the whole job."""
    plan = plan_training(job, catalog, measure=True, renew=renew)
    plan = replace(plan, costs=estimate_costs(job, catalog, plan), options=compare_routes(job, catalog, plan))
    assert plan.costs is not None
    show_routes(job, plan)
    job.narrator.say(plan.costs.sentence())
    try:
        require_evaluable(job, catalog)
    except DataError as error:
        job.narrator.warn(f"evaluate would refuse these images: {error.what}; to prevent this: {error.fix}")
    return plan


def estimate_costs(job: Job, catalog: Catalog, plan: Plan) -> Costs:
    """The costs of the whole job by a plan whose speed was measured."""
    images = catalog.images("train")
    longest = plan.expected_seconds or 0.0
    if plan.seconds is not None:
        longest = min(longest, plan.seconds)
    fitting = Seconds(
        longest / 4 if plan.pilot else longest, longest
    )  # a pilot may end early and choose a short length
    sampling = _passes(job, catalog) * _seconds_per_sample(job, plan, images)
    filters = FOLDS * (job.config.advanced.filter_max_steps or default_updates(len(images)))
    filtering = filters * _seconds_per_step(
        NetworkClassifier(small_cnn, "small-cnn"), TrainingRecipe(updates=1), job, images
    )
    generating = Seconds(FEWEST_ATTEMPTS * sampling + filtering / _workers(job), MOST_ATTEMPTS * sampling + filtering)
    arms, has_encoder = _compared_arms(job, catalog), encoders.has_encoder(job.config.encoder)
    has_pilot = plan.pilot is not None and wants_pilot(job.config, arms, has_encoder=has_encoder)
    trainings = count_trainings(arms, job.config.evaluation, has_encoder=has_encoder, has_pilot=has_pilot)
    evaluating = _evaluating(job, images, trainings)
    if has_pilot:  # its pool is generated in the evaluation
        evaluating += Seconds(generating.low / 2, generating.high)
    return Costs(fitting, generating, evaluating)


def _passes(job: Job, catalog: Catalog) -> float:
    """The images to add, each counted as often as its sampling takes longer than that of an image from noise.

    Painting a transplant repeats steps. A variation takes a part of the steps, which is not deducted.
    """
    images, settings, masks = catalog.images("train"), job.config.synthesis, catalog.masks()
    background, has_mask = background_class(job, images), set(masks.ids)
    masked = {images.labels[number] for number, name in enumerate(images.ids) if name in has_mask}
    total = 0.0
    for name, added in requested_targets(job, catalog).items():
        label = images.classes.index(name)
        count, is_painted = int(images.class_counts[label]), label in masked or settings.mask_from is not None
        material = Material(count, count, masks=int(is_painted and label != background), backgrounds=1)
        total += added * (1 + RESAMPLINGS * origin_fractions(settings, material)[TRANSPLANT])
    return total


def _compared_arms(job: Job, catalog: Catalog) -> list[Arm]:
    """The arms of the evaluation that the settings ask for."""
    has_encoder = encoders.has_encoder(job.config.encoder)
    resources = Resources(
        encoder=has_encoder,
        fine_tuning=has_encoder,
        gpu=job.device != "cpu",
        unlabeled=len(catalog.rows("unlabeled")) > 0,
    )
    return [ARMS[name] for name in job.config.evaluation.compared_arms(resources)]


def _evaluating(job: Job, images: LabeledImages, trainings: int) -> Seconds:
    settings = job.config.evaluation
    recipe = recipe_from_settings(settings, len(images))
    per_step = _seconds_per_step(classifier_by_name(settings), recipe, job, images)
    seconds = trainings * recipe.updates * per_step / _workers(job)
    return Seconds(LEAST_SHARE * seconds, LARGEST_SHARE * seconds)


def _workers(job: Job) -> int:
    if job.device != "cpu":
        return 1
    from joblib import cpu_count  # slow to import

    return job.config.evaluation.workers or min(MAX_WORKERS, cpu_count())


def _seconds_per_sample(job: Job, plan: Plan, images: LabeledImages) -> float:
    """Of an untrained network, which takes as long as a trained one."""
    settings, size = job.config.synthesis, job.config.advanced.chunk_size
    generator = route_by_name(plan.route).untrained(job, images, plan)
    scale = generator.usual.settled(settings).guidance_range[1]
    sampling = Sampling(solver=settings.solver, num_inference_steps=settings.num_inference_steps, guidance_scale=scale)

    def sample(count: int) -> None:
        generator.draw(Drawing(0, range(count), sampling, job.config.seed))

    few = max(1, size // 8)
    sample(few)  # warms up
    seconds = _timed(lambda: sample(few))
    if seconds < ENOUGH_SECONDS:
        return _timed(lambda: sample(size)) / size
    return seconds / few


def _seconds_per_step(classifier: NetworkClassifier, recipe: TrainingRecipe, job: Job, images: LabeledImages) -> float:
    """Of one training that has a thread for itself on a CPU."""
    part = images.select(np.arange(min(len(images), 1024), dtype=np.int64))
    training = TrainingSet.real_only(part)

    def train(updates: int) -> None:
        short = TrainingRecipe(updates, recipe.batch_size, optimizer=recipe.optimizer)
        classifier.fit_predict(training, part.pixels[:1], recipe=short, seed=job.config.seed, device=job.device)

    with one_thread_each():
        few = _timed(lambda: train(2))
        more = 4 if few > ENOUGH_SECONDS else 22
        return max(_timed(lambda: train(more)) - few, few / 10) / (more - 2)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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
