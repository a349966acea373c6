"""What was found in a data folder and chosen for it: in sentences, and as values for `--json`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

import pandas as pd

from diffaug.data.catalog import Catalog
from diffaug.data.layouts.entries import ALL_SPLITS


def facts_of(catalog: Catalog) -> list[str]:
    """Sentences on sizes, depth, groups, unlabeled images and masks."""
    return [
        _sizes(catalog),
        *([catalog.intensity.describe()] if catalog.intensity else []),
        *_groups(catalog),
        *_unlabeled(catalog),
        *_count("images with a mask, which is kept beside them", int((catalog.usable["mask"] != "").sum())),
    ]


def results_of(catalog: Catalog) -> dict[str, Any]:
    """Everything that `inspect` found."""
    counts, table = catalog.counts(), catalog.table
    unusable = table.loc[table["status"] != "ok", ["path", "status", "note"]].astype(str)
    return {
        "reading": catalog.reading,
        "counts": {str(split): {str(name): int(n) for name, n in counts[split].items()} for split in counts},
        "images_by_split": {split: len(catalog.rows(split)) for split in ALL_SPLITS},
        "image_size": list(catalog.image_size),
        "size": catalog.size and asdict(catalog.size),
        "resize": asdict(catalog.resize),
        "channels": catalog.channels,
        "intensity": catalog.intensity and asdict(catalog.intensity),
        "groups": int(_grouped(catalog).nunique()),
        "proposed_groups": catalog.proposal and asdict(catalog.proposal),
        "pictures_shown_again": int(_shown(catalog).duplicated().sum()),
        "leaks": [asdict(leak) for leak in catalog.leaks],
        "unlabeled": {
            "used": len(catalog.rows("unlabeled")),
            "left_out": catalog.usable["left_out"][catalog.usable["left_out"] != ""].value_counts().to_dict(),
            **asdict(catalog.domain),
        },
        "masks": int((catalog.usable["mask"] != "").sum()),
        "statuses": table["status"].astype(str).value_counts().to_dict(),
        "problems": catalog.problems,
        "unusable": unusable.to_dict("records"),
    }


def _sizes(catalog: Catalog) -> str:
    height, width = catalog.image_size
    heights, widths = catalog.usable["height"], catalog.usable["width"]
    smallest, largest = (f"{of(widths)} x {of(heights)}" for of in (min, max))
    found = smallest if smallest == largest else f"{smallest} to {largest}"
    shape = "" if (heights == height).all() and (widths == width).all() else f" of {found} px; {catalog.resize.reason}"
    why = f"; {catalog.size.reason}" if catalog.size else ""
    return f"working size {width} x {height} px, {'RGB' if catalog.channels == 3 else 'gray'}, for images{shape}{why}"


def _groups(catalog: Catalog) -> list[str]:
    grouped, proposal, alike = _grouped(catalog), catalog.proposal, _shown(catalog)
    sentences = []
    if len(grouped):
        cut = int((catalog.usable["split"].groupby(grouped).nunique() > 1).sum())
        where = f"{cut:,} of them in more than one split" if cut else "each on one side of the split"
        sentences.append(f"{grouped.nunique():,} groups of {len(grouped):,} images, {where}")
    if len(alike):
        sentences.append(f"{alike.nunique():,} sets of near-duplicates, {len(alike):,} images in all")
    if proposal:
        more = ", which near-duplicates confirm" if proposal.confirmed else ""
        option = f"--group-by {shlex.quote(proposal.pattern)}"
        sentences.append(f"{proposal.evidence}{more}; to keep groups together: {option}")
    return sentences


def _unlabeled(catalog: Catalog) -> list[str]:
    """How many unlabeled images are used, and how much of the other ones they look like."""
    number, found = len(catalog.rows("unlabeled")), catalog.domain
    if not number and not found.foreign:
        return []
    told = ""
    if found.measured_by:
        lighter = f", {found.weighed_down:,} of them count less because they look less like the labeled ones"
        told = f"{lighter if found.weighed_down else ''}; {found.foreign:,} foreign ones are left out"
        told += f" (measured by {found.measured_by})"
    return [f"{number:,} unlabeled images are used{told}"]


def _grouped(catalog: Catalog) -> pd.Series[str]:
    return catalog.usable["group"][catalog.usable["group"] != ""]


def _shown(catalog: Catalog) -> pd.Series[str]:
    return catalog.usable["picture"][catalog.usable["picture"] != ""]


def _count(what: str, number: int) -> list[str]:
    return [f"{number:,} {what}"] if number else []
