"""Checks a training for copies, reports them, and decides when to end."""

from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.process import MEASURED_SIGMAS
from diffaug.diffusion.training.batches import Holdout, TrainingData
from diffaug.diffusion.training.monitor import NUM_SAMPLES, CheckSchedule, CopyCheck, MemorizationMonitor
from diffaug.diffusion.training.pace import Pace
from diffaug.diffusion.training.training import TrainingState
from diffaug.stages.fitting.networks import CopyReport
from diffaug.stages.job import FIT_RUN, Job

SAMPLES_PER_CLASS, MOST_SAMPLES = 32, 1024


class MonitorCallback:
    """Runs the memorization monitor of one training; nothing is prepared if the schedule is empty."""

    def __init__(self, job: Job, plan: Plan, schedule: CheckSchedule, holdout: Holdout, data: TrainingData) -> None:
        self.job, self.plan, self.schedule = job, plan, schedule
        self.classes, self.num_held_out = holdout.trained.classes, len(holdout.held)
        self.stops = job.config.advanced.stop_on_copying
        self.monitor: MemorizationMonitor | None = None
        if schedule.steps:
            seed, mirrored = job.config.seed, plan.horizontal_flip
            self.monitor = MemorizationMonitor.of(
                data,
                holdout,
                schedule.pairs,
                seed,
                mirrored=mirrored,
                precision=plan.precision,
                noise_scale=plan.network.noise_scale,
            )
        else:
            job.narrator.say("the training is too short to check for copies of training images")
        self._ended: CopyCheck | None = None
        self._warned = False
        if self.num_held_out:
            job.narrator.say(f"{self.num_held_out} of the training images are held out to detect memorization")

    def ends_training(self, state: TrainingState, pace: Pace) -> bool:
        """Checks if it is time to. Once the generator copies, restores the weights from before and returns True."""
        if self.monitor is None or (state.step not in self.schedule.steps and state.step < pace.steps):
            return False
        check = self.monitor.check(state.averaged, state.step)
        self._log(check)
        if check.copying:
            self._warn(check, state)
        if not self.stops:
            return False
        if check.copying:
            self._ended = check
            state.return_to_safe()
        else:
            state.keep_safe()
        return check.copying

    def report(self, state: TrainingState) -> CopyReport:
        """Samples enough of each class to tell which ones are copied, and warns of these."""
        facts: dict[str, str | int] = {"images held out": self.num_held_out}
        if self.monitor is None:
            return CopyReport({**facts, "copies of training images": "not checked"}, {}, ())
        samples = max(NUM_SAMPLES, min(MOST_SAMPLES, SAMPLES_PER_CLASS * len(self.classes)))
        check = self.monitor.check(state.averaged, state.step, samples)
        low, high = check.copies.interval
        facts["copies of training images"] = (
            f"{check.copies.count} of {check.copies.total} samples (95 % interval {low:.0%} to {high:.0%}); "
            f"of real images left out {check.real.value:.0%}"
        )
        if check.loss_gap is not None:
            facts["denoising error of held-out images"] = f"{check.loss_gap:+.0%} relative to trained ones"
        copied = tuple(self.classes[label] for label in check.copied_classes)
        facts["copied classes"] = ", ".join(copied) or "none"
        if copied:
            self.job.narrator.warn(
                f"the generator copies training images of these classes: {facts['copied classes']}; "
                "collect more images of them, or do not generate them"
            )
        if self._ended:
            facts["training ended"] = f"because of copies, found after {self._images(self._ended.step)} images seen"
        return CopyReport(facts, dict(zip(self.classes, check.by_class, strict=True)), copied)

    def _log(self, check: CopyCheck) -> None:
        figures = figures_of(check, self.classes, self.plan.network.noise_scale)
        self.job.journal.log_metrics(FIT_RUN, figures, step=self._images(check.step))

    def _warn(self, check: CopyCheck, state: TrainingState) -> None:
        copies = check.copies
        text = (
            f"the generator copies training images: after {self._images(check.step)} images seen, {copies.count} of "
            f"{copies.total} samples ({copies.value:.0%}, 95 % interval from {copies.interval[0]:.0%}) are copies; "
            f"of real images left out {check.real.value:.0%}"
        )
        if self.stops:
            kept = "these weights, because no earlier check was free of copies"
            if state.safe is not None:
                kept = f"the weights after {self._images(state.safe_step)} images seen"
            self.job.narrator.close()
            self.job.narrator.warn(
                f"{text}; the training ends here and keeps {kept}. More training images or a shorter training help; "
                "--set advanced.stop_on_copying=false continues regardless"
            )
        elif not self._warned:
            self._warned = True
            self.job.narrator.warn(f"{text}; the training continues, as set")

    def _images(self, steps: int) -> int:
        return steps * self.plan.batch_size


def figures_of(check: CopyCheck, classes: tuple[str, ...], noise_scale: float) -> dict[str, float]:
    """The figures of a check of a network with this noise scale, by name."""
    low, high = check.copies.interval
    figures = {
        "copies": check.copies.value,
        "copies/low": low,
        "copies/high": high,
        "copies/real images": check.real.value,
        "check_seconds": check.seconds,
    }
    by_class = zip(classes, check.by_class, strict=True)
    figures |= {f"copies/class/{name}": share.value for name, share in by_class if share.total}
    if check.loss_gap is not None:
        figures["loss_gap"] = check.loss_gap
        levels = (f"{noise_scale * sigma:.3g}" for sigma in MEASURED_SIGMAS)
        figures |= {f"loss_gap/sigma {level}": gap for level, gap in zip(levels, check.loss_gaps, strict=True)}
    return figures
