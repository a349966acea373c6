"""What a classifier gains from objects of rare classes that are painted into real images of the common one.

    python benchmarks/transplant.py [--variants transplants without ...] [--minutes M | --images N] [--seed S]
                                    [--work FOLDER] [--quick] [--json FILE]

Runs the whole job on a made set, `marks.py`: 200 clean surfaces and 20 with each of three kinds of small marks, with
masks; 300 test images per class. All variants but those that draw masks share one generator. Each compares all arms
with paired seeds on test images that are touched once. Beside the gain over the best real arm, it counts the pixels of
transplants that differ from their real image outside of what was painted, which must be none, and compares drawn masks
with the true ones.

Each variant is a study in the work folder, and a later run goes on where this one stopped.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import diffaug
from diffaug.synthesis.pool.drawn_masks import box_masks, difference_masks
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.pool.transplants import Backgrounds

from marks import CLEAN, TRAIN_COUNTS, marked_surface, write_marks
from measuring import write_report

VARIANTS: dict[str, dict[str, Any]] = {
    "transplants": {},
    "without": {"synthesis.transplant_fraction": 0.0},
    "transplants alone": {"synthesis.transplant_fraction": 1.0},
    "crossed": {"synthesis.transplant_fraction": 0.0, "synthesis.crossed_fraction": 0.25},
    "difference": {"synthesis.mask_from": "difference"},
    "box": {"synthesis.mask_from": "box"},
}
DRAWN = ("difference", "box")  # variants on a folder without masks
QUICK = {"diffusion.images_seen": 600, "advanced.base_channels": 16, "evaluation.max_steps": 30}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = parse(argv)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = overlaps()
    for variant in arguments.variants:
        row = run(variant, arguments)
        rows.append(row)
        key = variant.replace(" ", "_")
        summary |= {f"{key}.{name}": value for name, value in row.items() if name not in ("variant", "class_gains")}
        print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
        write_report(arguments.json, summary, rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=["transplants", "without", "transplants alone"]
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=10.0, help="of training the generator")
    budget.add_argument("--images", type=int, help="seen by the generator, instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-encoder", action="store_true", help="without arms of a pretrained encoder")
    parser.add_argument("--work", type=Path, default=Path("runs/transplant"), help="where studies are kept")
    parser.add_argument("--quick", action="store_true", help="few images, 600 of generator training, 30 updates")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def run(variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one variant; whatever is on disk already is read."""
    data = write_data(arguments, masks=variant not in DRAWN)
    study = arguments.work / f"{variant.replace(' ', '-')}{named(arguments)}"
    fitted = arguments.work / f"fitted{'-no-masks' if variant in DRAWN else ''}{named(arguments)}"
    settings = settings_of(arguments)
    if not study.exists():
        diffaug.DiffusionAugmenter(study=fitted, settings=settings, verbose=not arguments.quick).fit(data)
        shutil.copytree(fitted, study.with_suffix(".copying"), dirs_exist_ok=True)
        study.with_suffix(".copying").rename(study)
    augmenter = diffaug.DiffusionAugmenter(
        study=study, settings={**settings, **VARIANTS[variant]}, verbose=not arguments.quick
    ).fit(data)
    pool = augmenter.generate()
    result = augmenter.evaluate()
    compared, real = result.compared, {arm.name: arm.mean() for arm in result.arms if arm.role == "baseline"}
    origins = pool.manifest["origin"].value_counts().to_dict()
    return {
        "variant": variant,
        "best_real_arm": compared.baseline,
        "best_real": real[compared.baseline],
        "gain_over_best_real": compared.difference.mean,
        "ci_low": compared.difference.low,
        "ci_high": compared.difference.high,
        "verdict": result.verdict.decision,
        "fraction": result.choice.mix.fraction if result.choice else None,
        "excluded_origins": list(result.choice.mix.excluded_origins) if result.choice else [],
        **{f"images_{name}": int(count) for name, count in origins.items()},
        "changed_outside": changed_outside(augmenter, pool),
        "class_gains": {name: gain.mean for name, gain in compared.recall_gain.items()},
    }


def write_data(arguments: argparse.Namespace, *, masks: bool) -> Path:
    """The made set in the work folder, with or without masks."""
    folder: Path = arguments.work / f"images{'' if masks else '-no-masks'}{named(arguments)}"
    counts = {name: count // 5 for name, count in TRAIN_COUNTS.items()} if arguments.quick else TRAIN_COUNTS
    options: dict[str, Any] = {"test_count": 8} if arguments.quick else {}
    if not folder.is_dir():
        written = write_marks(folder.with_suffix(".writing"), counts, seed=arguments.seed, masks=masks, **options)
        written.rename(folder)
    return folder


def named(arguments: argparse.Namespace) -> str:
    """What tells the folders of runs apart."""
    return f"-{arguments.seed}{'-quick' if arguments.quick else ''}"


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that all variants share."""
    shared = {"seed": arguments.seed, "tracking.mlflow": False, "data.near_duplicates": False, "data.image_size": 32}
    if arguments.no_encoder or arguments.quick:
        shared["encoder"] = "none"
    if arguments.quick:
        return shared | QUICK
    budget = {"images_seen": arguments.images} if arguments.images else {"minutes": arguments.minutes}
    return shared | {f"diffusion.{name}": value for name, value in budget.items()}


def changed_outside(augmenter: diffaug.DiffusionAugmenter, pool: Pool) -> int:
    """Pixels of transplants that differ from their real image where nothing was to be painted; -1 without transplants.

    What was painted is found anew, from the masks that the manifest names.
    """
    manifest = pool.manifest
    rows = manifest[manifest["origin"] == "transplant"]
    if not len(rows):
        return -1
    catalog = augmenter.inspect()
    images, groups = catalog.images("train"), catalog.groups("train")
    masks = catalog.masks()
    if not len(masks):
        return -1
    backgrounds = Backgrounds(images.classes.index(CLEAN), masks, groups)
    position = {name: number for number, name in enumerate(images.ids)}
    changed = 0
    for label in rows["class_index"].unique().tolist():
        objects = backgrounds.objects(images, np.flatnonzero(images.labels == label))
        number = {name: place for place, name in enumerate(objects.ids)}
        for row in rows[rows["class_index"] == label].itertuples():
            painted = objects.placed([(number[row.mask_source], number[row.mask_place])])[0]
            differs = (pool.read(row.Index) != images.pixels[position[row.source]]).any(axis=2)
            changed += int((differs & ~painted).sum())
    return changed


def overlaps() -> dict[str, float]:
    """Mean intersection over union of drawn and true masks, over the marks of the made training set."""
    clean = _pixels(CLEAN)
    found: dict[str, list[float]] = {name: [] for name in DRAWN}
    for label in (name for name in TRAIN_COUNTS if name != CLEAN):
        made = [marked_surface(label, "train", number) for number in range(TRAIN_COUNTS[label])]
        true = np.stack([one.mask for one in made])
        drawn = difference_masks(_pixels(label), clean, 0)
        found["difference"] += _overlap(drawn, true)
        found["box"] += _overlap(box_masks(drawn), box_masks(true))
    return {f"iou_{name}": float(np.mean(values)) for name, values in found.items()}


def _pixels(label: str) -> NDArray[np.uint8]:
    made = (marked_surface(label, "train", number).pixels for number in range(TRAIN_COUNTS[label]))
    return np.stack(list(made))[..., None]


def _overlap(masks: NDArray[np.bool_], others: NDArray[np.bool_]) -> list[float]:
    both, either = (masks & others).sum(axis=(1, 2)), (masks | others).sum(axis=(1, 2))
    return list((both / either).tolist())


if __name__ == "__main__":
    main()
