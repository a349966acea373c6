"""The stage that trains the generator: first the pilot, which chooses the length, then the generator on all images."""

from __future__ import annotations

from dataclasses import replace

from diffaug.data.catalog import TABLE, Catalog
from diffaug.data.images import hash_of
from diffaug.diffusion.generator.files import GeneratorRecord, write_generator
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.planning.planning import Plan, with_chosen_length
from diffaug.diffusion.training.batches import TrainingData, hold_out
from diffaug.diffusion.training.monitor import CheckSchedule
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.files.stage_records import StageState, begin_stage, finish_stage, stage_state
from diffaug.runtime.console import duration
from diffaug.runtime.distributed import current
from diffaug.stages.catalog import show_catalog
from diffaug.stages.fitting.monitoring import MonitorCallback
from diffaug.stages.fitting.pilot import train_pilot
from diffaug.stages.fitting.plan import PLAN_FILE, generator_settings, plan_training, write_plan
from diffaug.stages.fitting.running import CHECKPOINTS, Clock, TrainingRun
from diffaug.stages.fitting.sources import begin_from_earlier, seen_rows, stage_inputs, unlabeled_part
from diffaug.stages.job import FIT_RUN, Job

NEWEST = "newest"


def fit_generator(job: Job, catalog: Catalog, *, finish: bool = False) -> Generator:
    """Trains the study's generator, resumes a training that was stopped, or loads the finished one.

    With `finish` the training in progress, the pilot's or the generator's, ends where it is.

    Raises:
        Interrupted: A stop was requested; a checkpoint was saved.
        UsageError: The study's generator was begun with other settings, or there is nothing to finish.
    """
    group, folder = current(), job.study.generator
    inputs = stage_inputs(job, catalog)
    settings = generator_settings(job.config)
    overwrite = job.overwrite or not job.study.keeps_something  # an attempt that kept nothing binds nobody
    with group.main_first():
        stage = stage_state(folder, settings, inputs, overwrite=overwrite)
    if stage == "finished":
        with group.main_first():
            job.accept()
        job.narrator.say(f"generator: already finished, kept ({folder})")
    else:
        if finish and not (stage == "resumed" and job.study.has_training):
            raise UsageError("there is no unfinished training to finish", where=folder, fix="omit --finish to train")
        show_catalog(job, catalog)
        plan = plan_training(job, catalog, renew=stage == "new")
        with group.main_first():  # from here on, the study has something to keep
            job.accept()
            stage = begin_stage(folder, settings, inputs, overwrite=overwrite)
            if group.is_main:
                write_plan(job, plan)
                _start_log(job, catalog, plan, stage)
        clock = Clock()  # what was measured before is no training, and takes long where other work is heavy
        plan = _with_length(job, catalog, plan, clock, finish=finish)
        training = _Training(job, catalog, plan, clock)
        training.train(finish=finish)
        with group.main_first():
            if group.is_main:
                training.finish()
                finish_stage(folder)
                job.narrator.say(f"generator written to {folder}")
    if group.is_main:
        _finish_log(job)
    return Generator.load(folder, device=job.device)


def _with_length(job: Job, catalog: Catalog, plan: Plan, clock: Clock, *, finish: bool) -> Plan:
    """The plan with the length that the pilot chooses, unless it has one or there is no pilot."""
    if plan.pilot is None:
        return plan
    if plan.length is None:
        job.narrator.say("training the pilot, to choose length and amount on images that it has not seen ...")
        length = train_pilot(job, catalog, plan, clock, finish=finish)
        plan = with_chosen_length(plan, length, len(catalog.labels("train")))
        said = f"pilot: {length.reason}; so training on all images takes {_length(plan)}"
        plan = replace(plan, reasons=(*plan.reasons, said))
        job.narrator.say(said)
        with current().main_first():
            if current().is_main:
                write_plan(job, plan)
                job.journal.log_params(FIT_RUN, {"images_seen": plan.images_seen})
    assert plan.length is not None
    clock.resume_at(plan.length.seconds)
    return plan


def _length(plan: Plan) -> str:
    assert plan.length is not None
    most = "the greatest length, " if plan.length.is_longest else ""
    return f"{most}{plan.images_seen} images seen"


class _Training:
    """The training on all images. Every process has one; only the main one writes."""

    def __init__(self, job: Job, catalog: Catalog, plan: Plan, clock: Clock) -> None:
        self.job, self.catalog, self.plan = job, catalog, plan
        schedule = CheckSchedule.of(plan, len(catalog.rows("train")))
        # A single check, at the end, can't end the training, so nothing is held out for it.
        fraction = job.config.diffusion.holdout if len(schedule.steps) > 1 else 0.0
        self.holdout = hold_out(catalog, fraction=fraction, seed=job.config.seed, unlabeled=plan.unlabeled is not None)
        trained, folder = self.holdout.trained, job.study.generator
        unlabeled = unlabeled_part(job, plan, self.holdout, folder)
        self.data = TrainingData.of(trained, job.device, unlabeled=unlabeled)
        if not self.data.is_on_device:
            job.narrator.say("the images take more than half of the GPU's free memory; batches are copied to it")
        is_main = current().is_main
        self.monitor = MonitorCallback(job, plan, schedule, self.holdout, self.data) if is_main else None
        self.run = TrainingRun(job, folder, plan, self.data, classes=trained.classes, clock=clock)
        begin_from_earlier(plan, self.run.state, catalog.classes, folder)
        self.clock, self.is_finished_early = clock, False

    def train(self, *, finish: bool) -> None:
        """Takes the steps of the plan, from the last checkpoint on; Interrupted if a stop was requested."""
        self.run.resume()
        if self.monitor is not None:
            counts = {
                "train_images": len(self.holdout.trained),
                "held_out_images": len(self.holdout.held),
                "unlabeled_images": len(self.holdout.unlabeled or ()),
            }
            self.job.journal.log_params(FIT_RUN, counts)
        self.is_finished_early = finish and self.run.state.step > 0
        self.run.train(self.monitor, finish=self.is_finished_early)

    def finish(self) -> None:
        """Writes the generator."""
        assert self.monitor is not None
        self.run.require_few_skipped()
        self.run.save_grid()
        report, seconds, state = self.monitor.report(self.run.state), self.clock.seconds, self.run.state
        training: dict[str, str | int] = {
            "images seen": min(self.plan.images_seen, self.run.images_seen),
            **({"length": self.plan.length.reason} if self.plan.length else {}),
            **report.facts,
            **({"training ended": "with --finish"} if self.is_finished_early else {}),
            "seconds": round(seconds),
            "steps skipped": int(state.skipped),
            "seed": self.job.config.seed,
            **self.job.environment,
        }
        counts = self.holdout.trained.counts_by_name
        record = GeneratorRecord(
            self.plan.network,
            self.data.normalization,
            counts,
            training,
            guide=state.guide is not None,
            dataset_class_to_idx=self.job.study.record.class_to_idx,
            intensity=self.catalog.intensity,
            boxes=self.data.class_boxes(len(counts)),
            copied_classes=report.copied_classes,
            copies=report.copies,
            unlabeled=self.plan.unlabeled,
            initial=self.plan.initial,
        )
        folder = self.job.study.generator
        rows = seen_rows(self.catalog, self.holdout, self.plan, folder)
        write_generator(folder, record, state.averaged.state_dict(), state.guide, rows)
        storage.discard_directory(folder / CHECKPOINTS)
        self.job.narrator.say(f"trained in {duration(seconds)}")


def _start_log(job: Job, catalog: Catalog, plan: Plan, stage: StageState) -> None:
    network = plan.network
    params = {
        **({} if plan.pilot and plan.length is None else {"images_seen": plan.images_seen}),
        "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "base_channels": network.base_channels,
        "image_size": "x".join(map(str, network.image_size)),
        "classes": network.num_classes,
        "pilot": plan.pilot is not None,
    }
    job.start_run(FIT_RUN, stage, name="fit", kind="fit", params=params)
    digest = hash_of(catalog.images("train"))  # with those held out, as classifiers name it
    job.journal.log_dataset(FIT_RUN, job.study.catalog / TABLE, "train", "training", digest=digest)


def _finish_log(job: Job) -> None:
    """Logs the finished generator as the run's model, once, and ends the run."""
    if job.journal.status(FIT_RUN) == "open":
        for file in ("config.json", "README.md", PLAN_FILE):
            job.journal.log_artifact(FIT_RUN, job.study.generator / file)
        name = job.config.tracking.model or f"diffaug-{job.study.name}"
        job.journal.log_model(FIT_RUN, job.study.generator, "generator", registered_name=name, alias=NEWEST)
        job.journal.end_run(FIT_RUN)
