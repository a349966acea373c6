"""What an evaluation tells on the console: how long it takes, how far it is, and what was chosen."""

from collections.abc import Collection

from diffaug.configuration.arms import ARM_ROLES
from diffaug.evaluation.experiment.choice import Choice, Mix
from diffaug.evaluation.experiment.choosing.real_arms import RealArms
from diffaug.evaluation.experiment.training_task import Outcome, TrainingTask
from diffaug.runtime.console import Narrator, percent

STAGE, PLAIN = "evaluating", "real only"


class EvaluationProgress:
    """Counts trainings of networks, of which about so many are planned.

    Regressions on features take no time worth counting. The time left is shown from the second training on,
    since the first one takes two or three times as long, in workers that have just started.
    """

    def __init__(self, narrator: Narrator, planned: int) -> None:
        self._narrator, self._planned = narrator, planned
        self._done = 0
        if planned:
            narrator.say(f"evaluation: about {planned} trainings")

    def __call__(self, task: TrainingTask, outcome: Outcome | None) -> None:
        """Notes that a training is finished; without an outcome, that it was before."""
        if task.resolved.learner == "features":
            return
        if outcome is None:
            self._planned -= 1
            return
        self._done += 1
        detail = task.arm.name if task.arm.name in ARM_ROLES else ""
        self._narrator.progress(STAGE, self._done, max(self._planned, self._done + 1), detail)

    def expect(self, more: int) -> None:
        """Corrects the plan: exactly so many trainings are left."""
        self._planned = self._done + more

    def end(self) -> None:
        """Ends the bar."""
        if self._done:
            self._narrator.progress(STAGE, self._done, self._done)


def say_real(narrator: Narrator, real: RealArms) -> None:
    """The best real arm, and how far plain training is from it."""
    if not real.measured:
        return
    best, plain = real.measured[0], next((one for one in real.measured if one.arm == PLAIN), None)
    sentence = f"best without synthetic images: '{best.arm}' ({best.how}), {percent(best.mean)} in cross-validation"
    if plain is not None and plain.arm != best.arm:
        sentence += f"; plain training: {percent(plain.mean)}"
    narrator.say(sentence)
    narrator.say("in cross-validation: " + ", ".join(f"{one.arm} {percent(one.mean)}" for one in real.measured))


def say_mix(narrator: Narrator, choice: Choice) -> None:
    """What synthetic images are added to, how many, and why."""
    for arm, how in dict.fromkeys((one.arm, one.how) for one in choice.mixtures):
        found = sorted((one.mix.fraction, one.mean) for one in choice.mixtures if (one.arm, one.how) == (arm, how))
        figures = ", ".join(
            f"{percent(mean)} {f'with {percent(fraction, 0)} of each batch' if fraction else 'without'}"
            for fraction, mean in found
        )
        added = f"with what synthetic images add on {choice.judged_images} images left out"
        narrator.say(f"'{arm}' ({how}) {added}: {figures}")
    blind = {name for one in choice.mixtures for name in one.mix.excluded_classes}  # in every mix
    for one in choice.refinements:
        is_used = "used" if choice.is_of(one) else "no better"
        narrator.say(f"{_refinement(one.mix, blind)}: {percent(one.mean)}, {is_used}")
    amount = f"{percent(choice.mix.fraction, 0)} of each batch, added to '{choice.base}'"
    narrator.say(f"synthetic images: {'none' if choice.mix.is_zero else amount}. {choice.reason}")


def _refinement(mix: Mix, blind: Collection[str]) -> str:
    """How a mix differs from those on the curve, which leave out the blind classes."""
    if mix.excluded_origins:
        return f"without synthetic images of the origin {', '.join(mix.excluded_origins)}"
    if worse := [name for name in mix.excluded_classes if name not in blind]:
        return f"without synthetic images of {', '.join(worse)}"
    limit = "" if mix.max_per_real is None else f", at most {mix.max_per_real:g} per real image of each class"
    return f"{percent(mix.fraction, 0)} with loss weight {mix.loss_weight:g}{limit}"
