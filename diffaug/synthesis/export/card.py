"""The dataset card of an export: Markdown under a head of YAML, as Hugging Face shows it."""

from __future__ import annotations

import yaml

from diffaug._version import __version__
from diffaug.runtime.console import printable
from diffaug.synthesis.export.items import ORIGIN_REAL, ExportItems


def dataset_card(items: ExportItems) -> str:
    """Says how many images of which class are synthetic, what made them, and how to treat them.

    Args:
        items: The images.
    """
    counts = items.counts()
    synthetic = sum(
        sum(by_class.values())
        for by_origin in counts.values()
        for origin, by_class in by_origin.items()
        if origin != ORIGIN_REAL
    )
    head = yaml.safe_dump(
        {
            "pretty_name": "Images augmented by diffaug" if synthetic < len(items.table) else "Images made by diffaug",
            "task_categories": ["image-classification"],
            "tags": ["diffaug", *(["synthetic"] if synthetic else [])],
        },
        sort_keys=False,
    )
    return (
        f"---\n{head}---\n\n# Images for training a classifier\n\n"
        f"**{synthetic} of the {len(items.table)} images are synthetic**: diffaug {__version__} made them with a "
        f"diffusion model trained on the real training images. The column `origin` says which: `real`, `sampled` from "
        f"noise, or a `variation` of a real image, which `source` then names. No synthetic image is in a validation "
        f"or test split.\n\n"
        f"Synthetic images can repeat training images, above all in classes with few of them. Treat them with the "
        f"care that the training images need.\n\n"
        f"{_warning(items)}{_generators(items)}\n{_table(items)}\n"
    )


def _warning(items: ExportItems) -> str:
    """What the audit found against publishing the images."""
    reasons = "".join(f"- {_cell(reason)}\n" for reason in items.unsafe_to_publish)
    return f"**Unsafe to publish:**\n\n{reasons}\n" if reasons else ""


def _generators(items: ExportItems) -> str:
    """The sha256 of every generator's weights."""
    if "generator_sha256" not in items.table.column_names:
        return ""
    hashes = sorted(set(items.table["generator_sha256"].to_pylist()) - {None})
    return "".join(f"- generator, sha256 of the weights: `{sha256}`\n" for sha256 in hashes)


def _table(items: ExportItems) -> str:
    """Images of each class by split and origin."""
    columns = [
        (split, origin, by_class) for split, found in items.counts().items() for origin, by_class in found.items()
    ]
    heading = "".join(f" {split}, {origin} |" for split, origin, _ in columns)
    rows = [
        f"| {_cell(name)} |" + "".join(f" {by_class[name]} |" for _, _, by_class in columns) for name in items.classes
    ]
    return "\n".join([f"| class |{heading}", "|---" * (len(columns) + 1) + "|", *rows])


def _cell(text: str) -> str:
    """The text as one table cell, whatever it holds."""
    return printable(text).replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")
