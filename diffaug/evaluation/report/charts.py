"""The report's charts: figures as positions in percent of a drawing, which the templates turn into SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffaug.evaluation.report.format import Interval, deviation_of, interval_of, known
from diffaug.evaluation.verdict.decide import dose_is_set, dose_is_zero

PRIMARY = "balanced_accuracy"
METRICS = {
    PRIMARY: "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "worst_class_recall": "Worst class",
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "ece": "ECE",
    "nll": "NLL",
}
GROUPS = ("many", "medium", "few")
COLUMNS = METRICS | {group: f"Recall, {group}" for group in GROUPS}
ROLES = {"real": "real images only", "claim": "with synthetic images", "diagnosis": "for diagnosis only"}
CONTROLS = {
    "new content": "Synthetic images instead of as many extra draws of real ones of the same classes.",
    "more exposure": "Rare classes drawn more often, beyond the shifted class prior that comes with it.",
    "shifted prior": "The class prior that the synthetic images imply, without any extra image.",
    "filters": "Images that passed the filters instead of all that the generator made.",
}


@dataclass(frozen=True)
class Axis:
    """A scale of round numbers whose positions are percent of the drawing."""

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, values: Iterable[float | None], *, ticks: int = 5) -> Axis:
        """The scale that holds all known values with about `ticks` steps."""
        numbers = [value for value in values if value is not None] or [0.0]
        spread = max(max(numbers) - min(numbers), 0.02)
        step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if spread / s <= ticks or s == 1.0)
        first = math.floor(min(numbers) / step)
        last = max(math.ceil(max(numbers) / step - 1e-9), first + 1)
        return cls(first * step, last * step, step)

    @classmethod
    def around_intervals(cls, intervals: Iterable[Interval | None], *more: float) -> Axis:
        """The scale that holds all known intervals and further values."""
        return cls.around([*more, *(value for interval in intervals if interval for value in interval.values())])

    def at(self, value: float) -> float:
        """Where `value` lies, in percent."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def places(self, interval: Interval | None) -> Interval | None:
        """Where the ends and the mean of an interval lie."""
        return interval and {key: self.at(value) for key, value in interval.items()}

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


def claim_of(evaluation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The comparison that the verdict is about."""
    verdict = evaluation["verdict"]
    about = (verdict.get("arm"), verdict.get("baseline"))
    comparisons = evaluation["comparisons"]
    return next((c for c in comparisons if (c["arm"], c["baseline"]) == about), next(iter(comparisons), None))


def arms_chart(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Each arm's balanced accuracy, mean and one SD to both sides, on one axis, and all of its figures."""
    verdict, arms = evaluation["verdict"], evaluation["arms"]
    spans = [deviation_of(arm["metrics"].get(PRIMARY)) for arm in arms]
    axis = Axis.around_intervals(spans)
    marks = {verdict.get("baseline"): "best real arm", verdict.get("arm"): "under test"}
    rows = [
        {
            "name": arm["name"],
            "role": arm["role"],
            "said": ROLES.get(arm["role"], arm["role"]),
            "mark": marks.get(arm["name"], ""),
            "seeds": arm["seeds"],
            "figures": {**arm["metrics"], **(arm.get("group_recall") or {})},
            "x": axis.places(span),
        }
        for arm, span in zip(arms, spans, strict=True)
    ]
    measured = {name for row in rows for name in row["figures"]}
    baseline = next((row["x"]["mean"] for row in rows if row["mark"] == "best real arm" and row["x"]), None)
    return {
        "rows": rows,
        "axis": axis,
        "baseline": baseline,
        "columns": {name: label for name, label in COLUMNS.items() if name in measured},
        "diagnosis": any(row["role"] == "diagnosis" for row in rows),
    }


def class_chart(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The gain in recall of each class, the rarest first, from the comparison that the verdict is about."""
    claim, train = claim_of(evaluation), evaluation["train_counts"]
    recall = {arm["name"]: arm["recall"] for arm in evaluation["arms"]}
    before, after = (recall.get(claim[key], {}) if claim else {} for key in ("baseline", "arm"))
    rows = [
        {
            "name": name,
            "train": train.get(name, 0),
            "synthetic": evaluation["synthetic_counts"].get(name, 0),
            "test": evaluation["test_counts"].get(name, 0),
            "before": (before.get(name) or {}).get("mean"),
            "after": (after.get(name) or {}).get("mean"),
        }
        for name in sorted(evaluation["classes"], key=lambda name: train.get(name, 0))
    ]
    return _with_gains(rows, claim["recall_gain"] if claim else {})


def group_chart(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The gain in mean recall of the classes with many, a medium number and few train images, the few first."""
    claim, groups = claim_of(evaluation), evaluation.get("groups") or {}
    recall = {arm["name"]: arm.get("group_recall") or {} for arm in evaluation["arms"]}
    before, after = (recall.get(claim[key], {}) if claim else {} for key in ("baseline", "arm"))
    gains = (claim.get("group_gain") if claim else None) or {}
    rows = []
    for group in reversed(GROUPS):
        counts = [evaluation["train_counts"][name] for name, own in groups.items() if own == group]
        if counts and group in gains:
            row = {"name": group, "classes": len(counts), "least": min(counts), "most": max(counts)}
            rows.append(
                row | {side: (of.get(group) or {}).get("mean") for side, of in (("before", before), ("after", after))}
            )
    return _with_gains(rows, gains)


def controls_chart(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Differences in balanced accuracy that tell where a gain comes from; at a dose of zero there are none."""
    controls = [] if dose_is_zero(evaluation.get("dose")) else evaluation.get("controls") or []
    rows = [
        {
            "name": control["question"],
            "said": CONTROLS.get(control["question"], ""),
            "arm": control["arm"],
            "baseline": control["baseline"],
        }
        for control in controls
    ]
    return _with_gains(rows, {row["name"]: c["difference"] for row, c in zip(rows, controls, strict=True)})


def _with_gains(rows: Sequence[dict[str, Any]], gains: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Adds each row's gain, whether it is surely one or surely a loss, and where it lies on an axis with zero on it."""
    found = [interval_of(gains.get(row["name"])) for row in rows]
    axis = Axis.around_intervals(found, 0.0)
    drawn = [
        {
            **row,
            "gain": gain,
            "certain": gain is not None and (gain["low"] > 0 or gain["high"] < 0),
            "x": axis.places(gain),
        }
        for row, gain in zip(rows, found, strict=True)
    ]
    return {"rows": drawn, "axis": axis, "zero": axis.at(0.0)}


def dose_chart(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Balanced accuracy on validation images over the synthetic share, a line for each weight and ratio.

    None where no dose is known; without lines where it was set by hand.
    """
    dose = evaluation.get("dose")
    if not dose:
        return None
    on = dose.get("curve_base", dose["base"])
    chosen = _dose_key(dose["chosen"]) if on == dose["base"] else None
    curve = [*dose["curve"], *(point for point in dose.get("finer", ()) if not point["without"])]
    spans = [deviation_of(point) for point in curve]
    real = {entry["arm"]: deviation_of(entry["balanced_accuracy"]) for entry in dose.get("real") or []}
    base = real.get(dose["base"])
    axis = Axis.around_intervals(spans, *([base["mean"]] if base else []))
    widest = max([point["share"] for point in curve], default=0.0) or 1.0
    lines: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for point, span in sorted(zip(curve, spans, strict=True), key=lambda pair: pair[0]["share"]):
        if places := axis.places(span):
            heights = {key: round(100 - place, 2) for key, place in places.items()}
            place = {"x": round(100 * point["share"] / widest, 2), **heights, "chosen": _dose_key(point) == chosen}
            lines.setdefault(_dose_key(point)[1:], []).append({"figures": point, **place})
    main = _dose_key(dose["chosen"])[1:]
    return {
        "dose": dose,
        "on": on,
        "axis": axis,
        "shares": sorted({(point["figures"]["share"], point["x"]) for line in lines.values() for point in line}),
        "lines": [
            {"points": line, "main": key == main, "weight": key[0], "ratio": _ratio_in_words(key[1])}
            for key, line in sorted(lines.items())
        ],
        "base": None if base is None else round(100 - axis.at(base["mean"]), 2),
    }


def dose_sentence(evaluation: Mapping[str, Any]) -> str:
    """The dose and where it comes from; empty where none is known."""
    dose, counts = evaluation.get("dose"), evaluation["synthetic_counts"]
    if not dose:
        return ""
    if counts and not any(counts.values()):
        return "Dose: no synthetic images, since there are none."
    origin = "set by hand" if dose_is_set(dose) else "chosen on validation images"
    return f"Dose, {origin}: {_dose_in_words(dose)}."


def _dose_in_words(dose: Mapping[str, Any]) -> str:
    share, weight, ratio = _dose_key(dose["chosen"])
    if dose_is_zero(dose) and dose_is_set(dose):
        return "no synthetic images, since their share was set to zero"
    if dose_is_zero(dose):
        return f"no synthetic images, since on validation images none did better than “{dose['base']}” alone"
    most = f", at most {ratio:g} of a class for each real one" if math.isfinite(ratio) else ""
    none = ", ".join(dose["chosen"].get("without", ()))
    left_out = f"; none for {none}, recognised less often with them on validation images" if none else ""
    return (
        f"{100 * share:.0f} % of each batch synthetic, added to “{dose['base']}” "
        f"at a loss weight of {weight:g}{most}{left_out}"
    )


def _ratio_in_words(ratio: float) -> str:
    return f"{ratio:g}" if math.isfinite(ratio) else "no limit"


def _dose_key(point: Mapping[str, Any]) -> tuple[float, float, float]:
    """Share, weight and ratio; JSON has no infinity, so no ratio is an infinite one."""
    ratio = known(point.get("max_ratio"))
    weight = known(point.get("weight"))
    return point["share"], 1.0 if weight is None else weight, math.inf if ratio is None else ratio
