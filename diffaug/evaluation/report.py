"""The report: one HTML file that opens offline, and the same content as JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from diffaug import seeding, storage
from diffaug.data.images import LabeledImages

IMAGES_PER_SIDE = 12
MAX_SHOWN_PX = 160
PIXELATED_BELOW_PX = 65
MAX_IMAGE_BYTES = 6_500_000
CLASSES_OPEN = 12
MINUS, UNKNOWN = "\N{MINUS SIGN}", "\N{EN DASH}"

METRICS = {
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "worst_class_recall": "Recall of the worst class",
}
VERDICTS = {
    "use": {"kind": "good", "symbol": "✓", "word": "Use the synthetic images"},
    "do not use": {"kind": "bad", "symbol": "✕", "word": "Do not use the synthetic images"},
    "not decidable": {"kind": "open", "symbol": "?", "word": "Not decidable with this test set"},
}


def write_report(
    path: Path,
    *,
    title: str,
    evaluation: Mapping[str, Any],
    real: LabeledImages,
    synthetic: LabeledImages,
    config_yaml: str,
    facts: Mapping[str, Any],
    problems: list[str],
    seed: int,
    command: str,
) -> None:
    """Writes the report and, beside it, the same content as `.json`, where images are named by their ids.

    Args:
        path: The HTML file.
        title: Name of the study.
        evaluation: `EvaluationResult.to_dict()`; fractions, not percent.
        real: The train images.
        synthetic: The images of the pool.
        config_yaml: The resolved configuration.
        facts: Provenance by name: versions, device, times, hashes.
        problems: Sentences about what was found in the data.
        seed: Decides which images are shown.
        command: Shell line that repeats the job with the same settings.
    """
    shown = choose_images(real, synthetic, seed)
    data = {
        "title": title,
        "evaluation": dict(evaluation),
        "images": {
            name: {"real": [real.ids[i] for i in ours], "synthetic": [synthetic.ids[i] for i in theirs]}
            for name, (ours, theirs) in shown.items()
        },
        "problems": list(problems),
        "facts": {name: _plain(value) for name, value in facts.items()},
        "configuration": config_yaml,
        "seed": seed,
        "command": command,
    }
    template = _environment().from_string(files("diffaug.evaluation").joinpath("report.html.j2").read_text("utf-8"))
    html = template.render(
        report=data,
        verdict=_verdict(evaluation["verdict"]),
        metrics=METRICS,
        arms=_arms_chart(evaluation),
        classes=_class_chart(evaluation),
        walls=_walls(real, synthetic, shown),
        limit=IMAGES_PER_SIDE,
        enlarge=max(real.pixels.shape[1:3]) < PIXELATED_BELOW_PX,
    )
    storage.write_text(path, html)
    storage.write_json(path.with_suffix(".json"), data)


def choose_images(
    real: LabeledImages, synthetic: LabeledImages, seed: int, budget: int = MAX_IMAGE_BYTES
) -> dict[str, tuple[list[int], list[int]]]:
    """Positions of the images to show of each class, at random.

    The budget is filled in rounds, one real and one synthetic image of every class in each, the rarest class
    first, so that many classes show few images each rather than few classes many.

    Args:
        real: The train images.
        synthetic: The images of the pool.
        seed: The same seed chooses the same images.
        budget: Bytes of PNG in all.

    Returns:
        {class: (positions in `real`, positions in `synthetic`)}, up to 12 each.
    """
    sides = (("real", real), ("synthetic", synthetic))
    order = {
        (side, name): _shuffled(images, name, seeding.numpy_generator(seed, "report", side, name))
        for side, images in sides
        for name in real.classes
    }
    chosen: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in real.classes}
    rarest_first = sorted(real.classes, key=lambda name: real.counts_by_name[name])
    for turn in range(IMAGES_PER_SIDE):
        for name in rarest_first:
            for place, (side, images) in enumerate(sides):
                if turn < len(order[side, name]):
                    position = order[side, name][turn]
                    budget -= len(_png(images.pixels[position]))
                    if budget < 0:
                        return chosen
                    chosen[name][place].append(position)
    return chosen


def _shuffled(images: LabeledImages, name: str, generator: np.random.Generator) -> list[int]:
    if name not in images.classes:
        return []
    positions = np.flatnonzero(images.labels == images.classes.index(name))
    return [int(i) for i in generator.permutation(positions)[:IMAGES_PER_SIDE]]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 (H, W, C), made smaller where a side is over 160 px."""
    longest = max(pixels.shape[:2])
    if longest > MAX_SHOWN_PX:
        squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        height, width = (max(1, round(side * MAX_SHOWN_PX / longest)) for side in pixels.shape[:2])
        pixels = np.asarray(Image.fromarray(squeezed).resize((width, height), Image.Resampling.LANCZOS))
    return storage.png_bytes(np.asarray(pixels))


@dataclass(frozen=True)
class Axis:
    """A horizontal scale whose positions are percent of the drawing's width."""

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, values: Iterable[float | None], *, ticks: int = 5) -> Axis:
        """The scale of round numbers that holds all known values with about `ticks` steps."""
        known = [value for value in values if value is not None] or [0.0]
        spread = max(max(known) - min(known), 0.02)
        step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if spread / s <= ticks or s == 1.0)
        return cls(math.floor(min(known) / step) * step, math.ceil(max(known) / step + 1e-9) * step, step)

    def at(self, value: float) -> float:
        """Where `value` lies, in percent."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    @property
    def digits(self) -> int:
        """Decimals that the round numbers need as percent."""
        return 0 if self.step >= 0.01 else 1

    @property
    def ticks(self) -> list[dict[str, float]]:
        """The round numbers and where they lie."""
        count = round((self.high - self.low) / self.step)
        values = [self.low + self.step * number for number in range(count + 1)]
        return [{"value": value, "x": self.at(value)} for value in values]


def _verdict(verdict: Mapping[str, Any]) -> dict[str, Any]:
    looks = VERDICTS.get(verdict["decision"], {"kind": "open", "symbol": "?", "word": verdict["decision"]})
    return {**verdict, **looks}


def _arms_chart(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Each arm's balanced accuracy, mean and one SD to both sides, as positions on one axis."""
    verdict = evaluation["verdict"]
    spans = [_span(arm["metrics"].get("balanced_accuracy")) for arm in evaluation["arms"]]
    axis = Axis.around(value for span in spans if span for value in span.values())
    roles = {verdict.get("baseline"): "best real arm", verdict.get("arm"): "under test"}
    rows = [
        {"arm": arm, "role": roles.get(arm["name"], ""), "x": span and {key: axis.at(v) for key, v in span.items()}}
        for arm, span in zip(evaluation["arms"], spans, strict=True)
    ]
    baseline = next((row["x"]["mean"] for row in rows if row["role"] == "best real arm" and row["x"]), None)
    return {"rows": rows, "ticks": axis.ticks, "digits": axis.digits, "baseline": baseline}


def _class_chart(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The gain in recall of each class, the rarest first, from the comparison that the verdict is about."""
    verdict = evaluation["verdict"]
    claimed = (verdict.get("arm"), verdict.get("baseline"))
    comparisons = evaluation["comparisons"]
    claim = next((c for c in comparisons if (c["arm"], c["baseline"]) == claimed), next(iter(comparisons), None))
    gains = {name: _interval(gain) for name, gain in (claim["recall_gain"] if claim else {}).items()}
    axis = Axis.around([0.0, *(value for gain in gains.values() if gain for value in gain.values())])
    recall = {arm["name"]: arm["recall"] for arm in evaluation["arms"]}
    rows = []
    for name in sorted(evaluation["classes"], key=lambda name: evaluation["train_counts"].get(name, 0)):
        gain = gains.get(name)
        rows.append(
            {
                "name": name,
                "train": evaluation["train_counts"].get(name, 0),
                "synthetic": evaluation["synthetic_counts"].get(name, 0),
                "test": evaluation["test_counts"].get(name, 0),
                "before": recall.get(claim["baseline"], {}).get(name) if claim else None,
                "after": recall.get(claim["arm"], {}).get(name) if claim else None,
                "gain": gain,
                "certain": gain is not None and (gain["low"] > 0 or gain["high"] < 0),
                "x": gain and {key: axis.at(value) for key, value in gain.items()},
            }
        )
    return {"rows": rows, "ticks": axis.ticks, "digits": axis.digits, "zero": axis.at(0.0), "claim": claim}


def _walls(
    real: LabeledImages,
    synthetic: LabeledImages,
    shown: Mapping[str, tuple[list[int], list[int]]],
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "train": real.counts_by_name[name],
            "synthetic": synthetic.counts_by_name.get(name, 0),
            "open": number < CLASSES_OPEN,
            "sides": [("Real", _embed(real, shown[name][0])), ("Synthetic", _embed(synthetic, shown[name][1]))],
        }
        for number, name in enumerate(sorted(real.classes, key=lambda name: real.counts_by_name[name]))
    ]


def _embed(images: LabeledImages, positions: list[int]) -> list[dict[str, str]]:
    return [
        {
            "src": "data:image/png;base64," + base64.b64encode(_png(images.pixels[position])).decode(),
            "id": images.ids[position],
        }
        for position in positions
    ]


def _span(metric: Mapping[str, Any] | None) -> dict[str, float] | None:
    mean, sd = (_known((metric or {}).get(key)) for key in ("mean", "sd"))
    return None if mean is None else {"low": mean - (sd or 0.0), "mean": mean, "high": mean + (sd or 0.0)}


def _interval(gain: Mapping[str, Any]) -> dict[str, float] | None:
    mean, low, high = (_known(gain.get(key)) for key in ("mean", "low", "high"))
    return None if mean is None or low is None or high is None else {"low": low, "mean": mean, "high": high}


def _known(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def _percent(value: Any, digits: int = 1) -> str:
    known = _known(value)
    return UNKNOWN if known is None else f"{100 * known:.{digits}f}".replace("-", MINUS)


def _points(value: Any, digits: int = 1) -> str:
    known = _known(value)
    if known is None:
        return UNKNOWN
    text = f"{100 * known:+.{digits}f}".replace("-", MINUS)
    return text if float(f"{100 * known:.{digits}f}") else text[1:]


def _p_value(value: Any) -> str:
    known = _known(value)
    if known is None:
        return UNKNOWN
    return "< 0.001" if known < 0.001 else f"{known:.3f}"


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., str]] = {"percent": _percent, "points": _points, "p_value": _p_value}
    environment.filters.update(filters)
    return environment
