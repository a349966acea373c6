"""The verdict in sentences, a snapshot of every case; `python -m tests.evaluation.verdict.test_wording` renews it."""

from dataclasses import replace
from pathlib import Path

from diffaug.evaluation.experiment.mix import MeasuredMix, MixChoice, SyntheticMix
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.verdict.decide import decide
from diffaug.evaluation.verdict.wording import in_words
from tests.evaluation.verdict.evidence import control, difference, evidence_of, one_seed

SNAPSHOT = Path(__file__).parent / "snapshots" / "verdicts.txt"
GAINS = {
    "8": Estimate(0.091, 0.03, 0.15),
    "1": Estimate(0.02, -0.01, 0.05),
    "3": Estimate(-0.03, -0.05, -0.01),
    **{f"class {i}": Estimate(i / 100, 0.001, 0.2) for i in range(1, 5)},
}
MIX = SyntheticMix(0.3, 0.5, 10.0, ("cat", "dog"))
CHOSEN = MixChoice("oversampling", MIX, curve=(MeasuredMix("oversampling", MIX, 0.8, 0.01),))
BEST = {"arm": "best real + synthetic"}
PARTS = [control("new content", 0.015), control("more exposure", -0.003), control("shifted prior", 0.002)]
FILTERS = control("filters", 0.004, baseline="real + unfiltered synthetic")
ONE_SEED, SMALL = one_seed(0.02, 0.007), difference(0.021, 0.007)
TWO_SEEDS = replace(difference(0.05), seeds=2, by_generator=(0.062, 0.038))
FEW_SEEDS = difference(0.02, 0.015, seed_share=0.8, noise_share=0.1)

CASES = {
    "a gain, with classes and a chosen mix": evidence_of(SMALL, recall_gain=GAINS, mix=CHOSEN, **BEST),
    "a gain, with all controls": evidence_of(difference(0.05), controls=(*PARTS, FILTERS)),
    "a gain, with one control": evidence_of(difference(0.05), controls=(PARTS[0],)),
    "a gain with a mix set by hand": evidence_of(difference(0.05), mix=MixChoice("prior", SyntheticMix(0.3)), **BEST),
    "a gain with several generators and two seeds": evidence_of(TWO_SEEDS),
    "a gain with one seed": evidence_of(ONE_SEED),
    "a gain with equal answers of all seeds": evidence_of(ONE_SEED, seeds=5),
    "no gain with three seeds": evidence_of(difference(-0.0002, 0.00001), synthetic_images=1, seeds=3),
    "not decidable: images or seeds": evidence_of(difference(0.012, 0.007, seed_share=0.5), difference(0.0)),
    "not decidable: seeds of several generators": evidence_of(replace(FEW_SEEDS, by_generator=(0.062, -0.038))),
    "not decidable: images": evidence_of(difference(0.02, 0.015, seed_share=0.1)),
    "not decidable: both": evidence_of(difference(0.005, 0.05, seed_share=0.5), synthetic_images=None),
    "an empty pool": evidence_of(difference(0.0), synthetic_images=0),
    "a fraction set to zero": evidence_of(difference(0.05), mix=MixChoice("prior", SyntheticMix(0.0))),
    "no better mix": evidence_of(difference(0.05), mix=replace(CHOSEN, mix=SyntheticMix(0.0))),
}


def text_of_all_cases():
    verdicts = {name: in_words(decide(evidence), evidence) for name, evidence in CASES.items()}
    texts = ["\n".join([f"# {name}", v.headline, *v.details]) for name, v in verdicts.items()]
    return "\n\n".join(texts) + "\n"


def test_the_sentences_are_those_of_the_snapshot():
    assert text_of_all_cases() == SNAPSHOT.read_text(encoding="utf-8")
    # The numbers of the decision are those of the verdict.
    evidence = CASES["not decidable: images or seeds"]
    decision, verdict = decide(evidence), in_words(decide(evidence), evidence)
    assert (verdict.decision, verdict.arm, verdict.baseline) == ("not decidable", "candidate 0", "balanced softmax")
    assert (verdict.test_images_needed, verdict.seeds_needed) == (decision.test_images_needed, decision.seeds_needed)


if __name__ == "__main__":
    SNAPSHOT.write_text(text_of_all_cases(), encoding="utf-8")
