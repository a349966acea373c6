"""The report: one HTML file that opens offline, and the same content as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from diffaug.data.images import LabeledImages
from diffaug.evaluation.report.charts import (
    arms_chart,
    claim_of,
    class_chart,
    controls_chart,
    dose_chart,
    dose_sentence,
    group_chart,
)
from diffaug.evaluation.report.confusion import common_mistakes, confusion_tables
from diffaug.evaluation.report.format import FILTERS, plain
from diffaug.evaluation.report.images import (
    IMAGES_PER_SIDE,
    choose_images,
    choose_pairs,
    choose_rejected,
    positions_by_id,
    tile,
)
from diffaug.evaluation.report.pool import Pair, PoolFacts, RejectedSample
from diffaug.evaluation.verdict.decide import dose_is_zero
from diffaug.files import storage

PIXELATED_BELOW_PX = 65
CLASSES_OPEN = 12
IMAGE_BYTES = 9_200_000
TEXT_BYTES_PER_CLASS = 4_000
SHARE_OF_WALLS, SHARE_OF_PAIRS, SHARE_OF_REJECTED = 0.7, 0.2, 0.1

VERDICTS = {
    "use": {"kind": "good", "symbol": "✓", "word": "Use the synthetic images"},
    "do not use": {"kind": "bad", "symbol": "✕", "word": "Do not use the synthetic images"},
    "not decidable": {"kind": "open", "symbol": "?", "word": "Not decidable with this test set"},
}
REASONS = {
    "non-finite": "The sampler left the range of numbers.",
    "constant": "One colour all over.",
    "saturated": "Mostly pure black and white, far more than in any real image of the class.",
    "off-class": "A classifier of the real images takes it for another class.",
    "out of distribution": "Unlike the real images of its class.",
    "copy": "Shows a training image.",
    "duplicate": "Shows the same as another synthetic image.",
}

Shown = dict[str, tuple[list[int], list[int]]]


def write_report(
    path: Path,
    *,
    title: str,
    evaluation: Mapping[str, Any],
    real: LabeledImages,
    synthetic: LabeledImages,
    pool_facts: PoolFacts | None,
    config_yaml: str,
    facts: Mapping[str, Any],
    problems: Sequence[str],
    seed: int,
    command: str,
    not_repeated: Sequence[str] = (),
) -> None:
    """Writes the report and, beside it, the same content as `.json`, where images are named by their ids.

    Args:
        path: The HTML file.
        title: Name of the study.
        evaluation: `EvaluationResult.to_dict()`; fractions, not percent.
        real: The train images.
        synthetic: The images of the pool.
        pool_facts: What is known about the pool beside its images; none: nothing.
        config_yaml: The resolved configuration.
        facts: Provenance by name: versions, device, times, hashes.
        problems: Sentences about what was found in the data.
        seed: Decides which images are shown.
        command: Shell line that repeats the job with the same settings.
        not_repeated: What it does not repeat.
    """
    pool = pool_facts or PoolFacts()
    budget = max(0, IMAGE_BYTES - TEXT_BYTES_PER_CLASS * len(real.classes))
    shown = choose_images(real, synthetic, seed, int((SHARE_OF_WALLS if pool_facts else 1.0) * budget))
    pairs = choose_pairs(pool.pairs, real, synthetic, int(SHARE_OF_PAIRS * budget))
    rejected = choose_rejected(pool.rejected, int(SHARE_OF_REJECTED * budget))
    data = {
        "title": title,
        "evaluation": dict(evaluation),
        "images": {
            name: {"real": [real.ids[i] for i in ours], "synthetic": [synthetic.ids[i] for i in theirs]}
            for name, (ours, theirs) in shown.items()
        },
        "pool": pool_facts.to_dict() if pool_facts else None,
        "problems": list(problems),
        "facts": {name: plain(value) for name, value in facts.items()},
        "configuration": config_yaml,
        "seed": seed,
        "command": command,
        "not_repeated": list(not_repeated),
    }
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=data,
            pool=pool_facts,
            limit=IMAGES_PER_SIDE,
            enlarge=max(real.pixels.shape[1:3]) < PIXELATED_BELOW_PX,
            walls=_walls(real, synthetic, shown),
            neighbours=_neighbours(real, synthetic, pairs),
            rejected=_rejected(pool, rejected),
            audited=_audited(pool.audit),
            **_charts(evaluation),
        )
    )
    storage.write_bytes(path, html.encode(errors="replace"))  # a file name that is not UTF-8 holds lone surrogates
    storage.write_json(path.with_suffix(".json"), data)


def _charts(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    verdict = evaluation["verdict"]
    looks = VERDICTS.get(verdict["decision"], {"kind": "open", "symbol": "?", "word": verdict["decision"]})
    return {
        "verdict": {**verdict, **looks},
        "claim": claim_of(evaluation),
        "dose_said": dose_sentence(evaluation),
        "dose_is_zero": dose_is_zero(evaluation.get("dose")),
        "arms": arms_chart(evaluation),
        "classes": class_chart(evaluation),
        "groups": group_chart(evaluation),
        "controls": controls_chart(evaluation),
        "dose": dose_chart(evaluation),
        "confusions": confusion_tables(evaluation),
        "mistakes": common_mistakes(evaluation),
    }


def _walls(real: LabeledImages, synthetic: LabeledImages, shown: Shown) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "train": real.counts_by_name[name],
            "synthetic": synthetic.counts_by_name.get(name, 0),
            "open": number < CLASSES_OPEN,
            "sides": [
                (kind, [tile(images.pixels[position], images.ids[position]) for position in positions])
                for kind, images, positions in zip(("Real", "Synthetic"), (real, synthetic), shown[name], strict=True)
            ],
        }
        for number, name in enumerate(sorted(real.classes, key=lambda name: real.counts_by_name[name]))
    ]


def _neighbours(
    real: LabeledImages, synthetic: LabeledImages, pairs: Mapping[str, Sequence[Pair]]
) -> list[dict[str, Any]]:
    """The classes with pairs to show, the one with the closest pair first."""
    ours, theirs = positions_by_id(real), positions_by_id(synthetic)
    drawn = [
        {
            "name": name,
            "pairs": [
                {
                    "facts": pair,
                    "synthetic": tile(synthetic.pixels[theirs[pair.synthetic]], pair.synthetic),
                    "nearest": tile(real.pixels[ours[pair.nearest]], pair.nearest),
                    "class": real.classes[real.labels[ours[pair.nearest]]],
                }
                for pair in chosen
            ],
        }
        for name, chosen in sorted(pairs.items(), key=lambda item: min([p.distance for p in item[1]], default=2.0))
        if chosen
    ]
    return [{**row, "open": number < CLASSES_OPEN} for number, row in enumerate(drawn)]


def _rejected(pool: PoolFacts, shown: Mapping[str, Sequence[RejectedSample]]) -> dict[str, Any]:
    """Rejected candidates by class and reason, and pictures of some."""
    counts = {name: of_class.get("rejected", {}) for name, of_class in pool.candidates.items()}
    reasons = sorted({reason for of_class in counts.values() for reason in of_class} | set(shown))
    return {
        "reasons": [
            {
                "name": reason,
                "said": REASONS.get(reason, ""),
                "count": sum(of_class.get(reason, 0) for of_class in counts.values()) if counts else None,
                "images": [{**tile(s.pixels, s.file), "label": s.label} for s in shown.get(reason, ())],
            }
            for reason in reasons
        ],
        "classes": [{"name": name, **of_class} for name, of_class in pool.candidates.items() if of_class["candidates"]],
    }


def _audited(audit: Mapping[str, Any] | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Every part of the pool that the audit has figures of, by name."""
    if not audit or "all" not in audit:
        return []
    origins = [(f"origin: {name}", part) for name, part in audit["origins"].items()]
    return [("all images", audit["all"]), *origins, *audit["classes"].items()]


@cache
def _environment() -> Environment:
    folder = files("diffaug.evaluation.report") / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment
