"""The report: one HTML file that opens offline, and the same content as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from diffaug.configuration.arms import CONTROLS
from diffaug.data.images import LabeledImages
from diffaug.evaluation.report import charts, choices, images, tables
from diffaug.evaluation.report.format import FILTERS, UNKNOWN, plain
from diffaug.evaluation.report.pool import ORIGINS_IN_WORDS, PoolOverview
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.evaluation.verdict.wording import digits_of, mix_in_words
from diffaug.files import storage

PIXELATED_BELOW_PX = 65
OPEN_CLASSES = NAMED_CLASSES = 12
IMAGE_BYTES = 9_000_000
TEXT_BYTES_PER_CLASS = 6_000
SHARE_OF_IMAGES, SHARE_OF_PAIRS, SHARE_OF_REJECTED = 0.7, 0.2, 0.1

VERDICTS = {
    "use": {"kind": "good", "symbol": "✓", "word": "Use the synthetic images"},
    "do not use": {"kind": "bad", "symbol": "✕", "word": "Do not use the synthetic images"},
    "not decidable": {"kind": "open", "symbol": "?", "word": "Not decidable"},
}
NOTHING_TO_JUDGE = {"kind": "open", "symbol": UNKNOWN, "word": "There are no synthetic images"}
REASONS = {
    "non-finite": "The sampler's result was not a finite number.",
    "constant": "One color everywhere.",
    "saturated": "Mostly pure black and white, far more than in any real image of the class.",
    "wrong class": "A classifier of the real images assigns it to another class.",
    "out of distribution": "Unlike the real images of its class.",
    "copy": "Shows a training image.",
    "duplicate": "Shows the same as another synthetic image.",
}


def write_report(
    path: Path,
    *,
    title: str,
    result: EvaluationResult,
    real: LabeledImages,
    synthetic: LabeledImages,
    pool: PoolOverview | None,
    config_yaml: str,
    facts: Mapping[str, Any],
    problems: Sequence[str],
    seed: int,
    command: str,
    not_repeated: Sequence[str] = (),
    review: str | None = None,
    why_no_images: str = "",
) -> None:
    """Writes the report and, beside it, the same as `.json`, where images are named by their ids.

    The training images are `real`, those of the pool `synthetic`; the seed decides which of them are shown. `facts` is
    the provenance by name, `problems` are sentences about the data. The shell command repeats the job with the same
    settings, except for what is `not_repeated`. The shell command `review` opens the pool's page for a look by hand.
    `why_no_images` says why there are no synthetic images, if there are none.
    """
    budget = max(0, IMAGE_BYTES - TEXT_BYTES_PER_CLASS * len(real.classes))
    shown = images.choose_images(real, synthetic, seed, int((SHARE_OF_IMAGES if pool else 1.0) * budget))
    report = {
        "title": title,
        "images": {
            name: {"real": [real.ids[i] for i in ours], "synthetic": [synthetic.ids[i] for i in theirs]}
            for name, (ours, theirs) in shown.items()
        },
        "problems": list(problems),
        "facts": {name: plain(value) for name, value in facts.items()},
        "configuration": config_yaml,
        "seed": seed,
        "command": command,
        "not_repeated": list(not_repeated),
        "review": review,
        "why_no_images": why_no_images,
    }
    page = environment().get_template("page.html.j2")
    html = page.render(
        report=report,
        real=real,
        synthetic=synthetic,
        shown=shown,
        by_train_count=sorted(real.classes, key=real.counts_by_name.__getitem__),
        enlarge=max(real.pixels.shape[1:3]) < PIXELATED_BELOW_PX,
        pool=pool,
        **_pool(pool, real, synthetic, budget) if pool else {},
        result=result,
        look=NOTHING_TO_JUDGE if result.has_no_pool else VERDICTS[result.verdict.decision],
    )
    storage.write_bytes(path, html.encode(errors="replace"))  # a file name that is not UTF-8 holds lone surrogates
    content = {**report, "evaluation": result.to_dict(), "pool": pool.to_dict() if pool else None}
    storage.write_json(path.with_suffix(".json"), content)


def _pool(pool: PoolOverview, real: LabeledImages, synthetic: LabeledImages, budget: int) -> dict[str, Any]:
    pairs = images.choose_pairs(pool.pairs, real, synthetic, int(SHARE_OF_PAIRS * budget))
    samples = images.choose_rejected(pool.rejected, int(SHARE_OF_REJECTED * budget))
    counts = Counter[str]()
    for summary in pool.summaries.values():
        counts.update(summary.rejected)
    return {
        "pairs": sorted((item for item in pairs.items() if item[1]), key=lambda item: item[1][0].distance),
        "real_position": images.positions_by_id(real),
        "synthetic_position": images.positions_by_id(synthetic),
        "rejected": {reason: samples.get(reason, []) for reason in sorted({*counts, *samples})},
        "rejected_counts": counts,
    }


@cache
def environment() -> Environment:
    """The templates, with the filters and values that they use."""
    made = Environment(
        loader=PackageLoader("diffaug.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= FILTERS | {"data_uri": images.data_uri, "digits_of": digits_of}
    made.globals |= {
        "limit": images.IMAGES_PER_SIDE,
        "open_classes": OPEN_CLASSES,
        "named_classes": NAMED_CLASSES,
        "reasons": REASONS,
        "explanations": {pair.question: pair.explanation for pair in CONTROLS},
        "tables": tables,
        "charts": charts,
        "choices": choices,
        "mix_in_words": mix_in_words,
        "origins": ORIGINS_IN_WORDS,
    }
    return made
