"""Trains one network, for a pilot or on all images."""

from __future__ import annotations

from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.monitor import CheckSchedule
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.measured_lengths import train_measured
from diffaug.stages.fitting.monitoring import MonitorCallback
from diffaug.stages.fitting.networks import Preview, TrainedNetwork
from diffaug.stages.fitting.running import TrainingRun
from diffaug.stages.fitting.sources import begin_from_earlier
from diffaug.stages.fitting.work import Work
from diffaug.stages.job import FIT_RUN


def train_network(work: Work, data: TrainingData, preview: Preview, *, part: str = "") -> TrainedNetwork | None:
    """Trains the network of the plan, resumes its training, or ends it where it is.

    A pilot measures lengths on the way, chooses one, writes it into the folder of the work, and ends with the weights
    of this length. All processes call it. The caller writes the weights; a repeated call resumes from the last
    checkpoint, which is kept until the generator is committed.

    Plan and folder of the work are those of this network. `part` names it in progress and metrics, if the route trains
    several.

    Returns:
        The network in the main process, None in others.

    Raises:
        Interrupted: A stop was requested; a checkpoint was saved.
    """
    run = TrainingRun(work, data, preview, part=part)
    begin_from_earlier(work.plan, run.state, work.classes, work.folder)
    return train_measured(work, run, data) if work.is_pilot else _train_on_all(work, run, data)


def _train_on_all(work: Work, run: TrainingRun, data: TrainingData) -> TrainedNetwork | None:
    job, plan, holdout, is_main = work.job, work.plan, work.holdout, current().is_main
    schedule = CheckSchedule.of(plan, len(work.catalog.rows("train")))
    monitor = MonitorCallback(job, plan, schedule, holdout, data) if is_main else None
    run.resume()
    if monitor is not None:
        counts = {
            "train_images": len(holdout.trained),
            "held_out_images": len(holdout.held),
            "unlabeled_images": len(holdout.unlabeled or ()),
        }
        job.journal.log_params(FIT_RUN, counts)
    was_ended = work.finish and run.state.step > 0
    run.train(monitor, finish=was_ended)
    if monitor is None:
        return None
    run.require_few_skipped()
    run.save_grid()
    report, seconds, state = monitor.report(run.state), work.clock.seconds, run.state
    facts: dict[str, str | int] = {
        "images seen": min(plan.images_seen, run.images_seen),
        **({"length": plan.length.reason} if plan.length else {}),
        **report.facts,
        **({"training ended": "with --finish"} if was_ended else {}),
        "seconds": round(seconds),
        "steps skipped": int(state.skipped),
    }
    return TrainedNetwork(state.averaged.state_dict(), state.guide, facts, report)
