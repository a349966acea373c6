"""The verdict in sentences, a snapshot of every case; `python -m tests.evaluation.verdict.test_wording` renews it."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.statistics.comparison import Change
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.verdict.advice import advise, next_steps
from diffaug.evaluation.verdict.advice_wording import advice_in_words, best_real_in_words, step_in_words
from diffaug.evaluation.verdict.decide import decide
from diffaug.evaluation.verdict.wording import ends_in_words, in_words
from tests.evaluation.report.contents import arm
from tests.evaluation.verdict.evidence import choice, choice_of_none, control, difference, evidence_of, one_seed

SNAPSHOT = Path(__file__).parent / "snapshots" / "verdicts.txt"
GAINS = {
    "8": Estimate(0.091, 0.03, 0.15),
    "1": Estimate(0.02, -0.01, 0.05),
    "3": Estimate(-0.03, -0.05, -0.01),
    **{f"class {i}": Estimate(i / 100, 0.001, 0.2) for i in range(1, 5)},
}
MIX = Mix(0.3, 0.5, 10.0, ("cat", "dog"))
CHOSEN = choice(MIX)
BY_HAND = choice(Mix(0.3), judged_images=0, base="prior", reason="The synthetic fraction was set by hand.")
BEST = {"arm": "best real + synthetic"}
PARTS = [control("new content", 0.015), control("more exposure", -0.003), control("shifted prior", 0.002)]
FILTERS = control("filters", 0.004, baseline="real + unfiltered synthetic")
ONE_SEED, SMALL = one_seed(0.02, 0.007), difference(0.021, 0.007)
TWO_SEEDS = replace(difference(0.05), seeds=2, by_generator=(0.062, 0.038))
FEW_SEEDS = difference(0.02, 0.015, seed_share=0.8, noise_share=0.1)

CASES = {
    "a gain, with classes and a chosen mix": evidence_of(
        SMALL, recall_gain=GAINS, used_images=90, choice=CHOSEN, **BEST
    ),
    "a gain, with all controls": evidence_of(difference(0.05), controls=(*PARTS, FILTERS)),
    "a gain, with one control": evidence_of(difference(0.05), controls=(PARTS[0],)),
    "a gain with a mix set by hand": evidence_of(difference(0.05), choice=BY_HAND, **BEST),
    "a gain with several generators and two seeds": evidence_of(TWO_SEEDS),
    "a gain with one seed": evidence_of(ONE_SEED),
    "a gain with equal answers of all seeds": evidence_of(ONE_SEED, seeds=5),
    "a first answer": evidence_of(difference(0.05), choice=replace(CHOSEN, mix=Mix(0.3), is_quick=True)),
    "no gain with three seeds": evidence_of(difference(-0.0002, 0.00001), used_images=1, synthetic_images=1, seeds=3),
    "not decidable: images or seeds": evidence_of(difference(0.012, 0.007, seed_share=0.5), difference(0.0)),
    "not decidable: seeds of several generators": evidence_of(replace(FEW_SEEDS, by_generator=(0.062, -0.038))),
    "not decidable: images": evidence_of(difference(0.02, 0.015, seed_share=0.1)),
    "not decidable: both": evidence_of(
        difference(0.005, 0.05, seed_share=0.5), synthetic_images=None, used_images=None
    ),
    "an empty pool": evidence_of(difference(0.0), synthetic_images=0),
    "a fraction set to zero": evidence_of(difference(0.05), choice=replace(BY_HAND, mix=Mix(0.0))),
    "nothing learned": evidence_of(
        difference(0.05), num_classes=10, accuracies={"real only": Estimate(0.11, 0.09, 0.13)}
    ),
    "no better mix": evidence_of(difference(0.05), choice=choice_of_none(-0.1)),
    "few judged images": evidence_of(difference(0.05), choice=choice_of_none(0.0)),
}


ADVICE = {
    "one class gains": ({"9": Estimate(0.024, 0.004, 0.044), "1": GAINS["1"]}, {}),
    "one class gains, the only one with synthetic images": ({"9": GAINS["8"], "1": GAINS["1"]}, {"9": 20, "1": 0}),
    "many change": (GAINS, {}),
    "one loses, and one without synthetic images as well": ({"3": GAINS["3"], "4": GAINS["3"]}, {"3": 9, "4": 0}),
    "none changes": ({"1": GAINS["1"]}, {}),
}
RECALL = {name: Estimate(mean, mean - 0.1, mean + 0.1) for name, mean in {"a": 0.42, "b": 0.9, "c": 0.6}.items()}
COUNTS = {"a": 11, "b": 1, "c": 300}


def change(difference, **recall_gain):
    return Change("oversampling", "", difference, dict.fromkeys("abc", OPEN) | recall_gain, {})


HELPS, OPEN = Estimate(0.031, 0.012, 0.05), Estimate(0.004, -0.01, 0.02)
STEPS = {
    "nothing measured": (("encoder", "unlabeled images"), None),
    "more images help a class": (
        (),
        Change("", "", HELPS, {"a": Estimate(0.08, 0.039, 0.121), "b": OPEN, "c": OPEN}, {}),
    ),
    "more images help": (("encoder",), Change("", "", HELPS, dict.fromkeys("abc", OPEN), {})),
    "open whether more images help": (("encoder",), Change("", "", OPEN, dict.fromkeys("abc", OPEN), {})),
}
PLAIN, BEST_REAL = arm("real only", "baseline", 0.882), arm("pretrained features", "baseline", 0.950)
LEADS = {
    "far ahead": (BEST_REAL, PLAIN, change(Estimate(0.068, 0.03, 0.101))),
    "perhaps ahead": (BEST_REAL, PLAIN, change(Estimate(0.068, -0.03, 0.101))),
    "plain": (PLAIN, PLAIN, None),
    "plain not run": (BEST_REAL, None, None),
}


def text_of_all_cases():
    verdicts = {name: in_words(decide(evidence), evidence, ["Class 9 gains."]) for name, evidence in CASES.items()}
    texts = ["\n".join([f"# {name}", v.headline, *v.details]) for name, v in verdicts.items()]
    for name, (gains, used) in ADVICE.items():
        advice = advise(gains, used)
        outcomes = [" ".join(advice_in_words(advice, outcome)) for outcome in ("use", "not decidable")]
        texts.append("\n".join([f"# advice: {name}", *dict.fromkeys(outcomes)]))
    for name, (missing, more_images) in STEPS.items():
        steps = next_steps(replace(PLAIN, recall=RECALL), COUNTS, missing, more_images)
        texts.append("\n".join([f"# next: {name}", *(step_in_words(step) for step in steps)]))
    texts += [f"# best real arm: {name}\n{best_real_in_words(*facts)}" for name, facts in LEADS.items()]
    return "\n\n".join(texts) + "\n"


def test_the_sentences_are_those_of_the_snapshot():
    assert text_of_all_cases() == SNAPSHOT.read_text(encoding="utf-8")
    # The numbers of the decision are those of the verdict.
    evidence = CASES["not decidable: images or seeds"]
    decision, verdict = decide(evidence), in_words(decide(evidence), evidence)
    assert (verdict.decision, verdict.arm, verdict.baseline) == ("not decidable", "candidate 0", "balanced softmax")
    assert (verdict.test_images_needed, verdict.seeds_needed) == (decision.test_images_needed, decision.seeds_needed)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.003, 0.008, "-0.3 to 0.8"),
        (0.0004, 0.02, "0.04 to 2.00"),
        (-0.02, -0.00003, "-2.000 to -0.003"),
        (0.002, 0.0098, "0.20 to 0.98"),
        (0.002, 0.00996, "0.200 to 0.996"),
        (0.0, 0.01, "0.0 to 1.0"),
        (1e-9, 0.02, "0.0000 to 2.0000"),
    ],
)
def test_an_interval_is_shown_with_digits_that_agree_with_the_verdict(low, high, words):
    assert ends_in_words(Estimate((low + high) / 2, low, high)) == words


if __name__ == "__main__":
    SNAPSHOT.write_text(text_of_all_cases(), encoding="utf-8")
