"""Looks for copying while a generator is trained, tells what was seen, and decides when to end."""

from __future__ import annotations

from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.holdout import Holdout
from diffaug.diffusion.training.monitor import SIGMAS, Look, Schedule, Watch
from diffaug.diffusion.training.training import TrainingState
from diffaug.stages.job import Job


class Watching:
    """The watch of one training.

    Args:
        job: Whom to tell, and whether copying ends the training.
        run: The journal's run.
        plan: The training.
        schedule: When to look; nothing is prepared where it is empty.
        holdout: What is trained on and what is not.
        data: The trained images on the device.
    """

    def __init__(
        self, job: Job, run: str, plan: Plan, *, schedule: Schedule, holdout: Holdout, data: TrainingData
    ) -> None:
        self.job, self.run, self.plan, self.schedule = job, run, plan, schedule
        self.classes, self.held = holdout.trained.classes, len(holdout.held)
        settings = job.config.diffusion
        self.stops = settings.stop_on_copying
        self.watch = (
            Watch.of(
                data,
                holdout,
                schedule,
                job.config.seed,
                mirrored=settings.horizontal_flip,
                precision=plan.precision,
            )
            if schedule.steps
            else None
        )
        self._last: Look | None = None
        self._ended: Look | None = None
        self._warned = False
        if self.watch is None:
            reason = "too short a training" if settings.copy_check_fraction else "diffusion.copy_check_fraction is 0"
            job.narrator.say(f"copies of training images are not looked for: {reason}")
        if self.held:
            job.narrator.say(f"{self.held} of the training images are held out to see what is learnt by heart")

    def ends_training(self, state: TrainingState) -> bool:
        """Looks where the schedule says so; once copying has set in, puts the weights from before it back."""
        if self.watch is None or state.step not in self.schedule.steps:
            return False
        look = self._look(state)
        self._log(look)
        if not look.copying:
            if self.stops:
                state.keep_safe()
            return False
        if self.stops:
            self._ended = look
            self.job.narrator.close()
            self.job.narrator.warn(self._stop_text(look, state))
            state.return_to_safe()
        elif not self._warned:
            self.job.narrator.warn(f"{self._copying_text(look)}; the training goes on, as set")
            self._warned = True
        return self.stops

    def facts(self, state: TrainingState) -> dict[str, str | int]:
        """What the model card says of the generator's copying; warns of the classes that are copied."""
        facts: dict[str, str | int] = {"images held out": self.held}
        if self.watch is None:
            return {**facts, "copies of training images": "not looked for"}
        look = self._last if self._last and self._last.step == state.step else self._look(state)
        low, high = look.copies.interval
        facts["copies of training images"] = (
            f"{look.copies.count} of {look.copies.total} samples (95 % interval {low:.0%} to {high:.0%}); "
            f"of real images left out {look.real.value:.0%}"
        )
        if look.loss_gap is not None:
            facts["denoising error of held-out images"] = f"{look.loss_gap:+.0%} against trained ones"
        facts["copied classes"] = ", ".join(self.classes[label] for label in look.copied_classes) or "none"
        if look.copied_classes:
            self.job.narrator.warn(
                f"the generator copies training images of: {facts['copied classes']}; "
                "collect more images of these classes, or generate none"
            )
        if self._ended:
            facts["training ended"] = f"when copying set in, found after {self._images(self._ended.step)} images seen"
        return facts

    def _look(self, state: TrainingState) -> Look:
        assert self.watch is not None
        self._last = self.watch.look(state.averaged, state.step)
        return self._last

    def _log(self, look: Look) -> None:
        low, high = look.copies.interval
        figures = {
            "copy_share": look.copies.value,
            "copy_share/low": low,
            "copy_share/high": high,
            "copy_share/real images": look.real.value,
            "watch_seconds": look.seconds,
        }
        figures |= {
            f"copy_share/class/{name}": share.value
            for name, share in zip(self.classes, look.by_class, strict=True)
            if share.total
        }
        if look.loss_gap is not None:
            figures["loss_gap"] = look.loss_gap
            figures |= {f"loss_gap/sigma {sigma:g}": gap for sigma, gap in zip(SIGMAS, look.loss_gaps, strict=True)}
        self.job.journal.log_metrics(self.run, figures, step=self._images(look.step))

    def _copying_text(self, look: Look) -> str:
        copies = look.copies
        return (
            f"copying has set in: after {self._images(look.step)} images seen, {copies.count} of {copies.total} "
            f"samples ({copies.value:.0%}; at least {copies.interval[0]:.0%} with 95 % confidence) are copies of "
            f"training images, of real images left out {look.real.value:.0%}"
        )

    def _stop_text(self, look: Look, state: TrainingState) -> str:
        kept = (
            f"as it was after {self._images(state.safe_step)} images"
            if state.safe is not None
            else "as it is now, since no earlier look was free of copies"
        )
        return (
            f"{self._copying_text(look)}; the training ends here and the generator is kept {kept}. More training "
            f"images help, fewer minutes too; --set diffusion.stop_on_copying=false goes on regardless"
        )

    def _images(self, step: int) -> int:
        return step * self.plan.batch_size
