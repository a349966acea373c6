"""Images of 128 to 200 px: speed and quality against the peers, what a cascade adds to bicubic, and the gain.

    python benchmarks/real_sizes.py [--flowers FOLDER] [--neu FOLDER] [--parts PART ...] [--minutes M]
                                    [--work FOLDER] [--device cpu] [--quick] [--json FILE]

The parts, by the keys of the summary:

- speed: `train_ratio_128px`, images per second in training at 128 px over those of the faster peer, see train_speed.py.
- quality: `kid_ratio_128px`, diffaug's kernel distance over the better peer's after equal minutes on flowers at 128 px,
  see quality_per_minute.py; below 1 is better. diffaug trains on the pixels, as the peers do.
- cascade: `cascade_over_bicubic_kid`, on real test images that were reduced to the size of the base: the kernel
  distance to the real ones of what the upscaler makes of them, over that of bicubic interpolation; below 1 is better.
  Of neu-lt and flowers, the worse one. The rows have the balanced accuracy of a classifier of real training images.
- gain: `neu.gain_over_best_real` and `flowers.gain_over_best_real`, the whole job by the default route, see gain.py:
  neu-lt at 200 px and flowers at 128 px with their unlabeled images.

FOLDER holds a set as gain.py wants it; parts without their set are left out. Everything is kept in the work folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gain
import numpy as np
import quality_per_minute
import torch
import train_speed
from numpy.typing import NDArray
from sets import prepare

import diffaug
from diffaug.classifiers.encoders.by_name import encoder_by_name
from diffaug.classifiers.feature_regression import balanced_accuracy
from diffaug.classifiers.fit import fit_network, predict_probabilities
from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet, default_updates
from diffaug.configuration.sampling import DEFAULT_SAMPLING
from diffaug.data.images import LabeledImages
from diffaug.diffusion.cascade.generator import CascadeGenerator
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.synthesis.audit.quality import kernel_distance

from fidelity import Extractor
from measuring import print_table, speed_parser, write_report

SIDE, PEERS_MINUTES = 128, 10.0
CASCADES = {"neu": ("neu-lt", 192), "flowers": ("flowers-128", SIDE)}
"""Name of the set and size in px of what a cascade is measured on."""
GAINS = {"neu": "neu", "flowers": "flowers-128"}
QUICK_IMAGES, QUICK_UPDATES, QUICK_TESTED = 600, 30, 8

Part = tuple[dict[str, Any], list[dict[str, Any]]]
"""Goal figures by key, and rows."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = parse(argv)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for name in arguments.parts:
        figures, found = PARTS[name](arguments)
        print(f"== {name}")
        print_table(found)
        rows += [{"part": name, **row} for row in found]
        summary |= figures
    columns = dict.fromkeys(key for row in rows for key in row)
    write_report(arguments.json, summary, [{key: row.get(key) for key in columns} for row in rows])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flowers", type=Path, help="flowers: a folder per class")
    parser.add_argument("--neu", type=Path, help="neu-lt: train/, test/ and unlabelled/")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, help="of generator training; quality 10, others 20")
    parser.add_argument("--work", type=Path, default=Path("runs/real-sizes"), help="where studies are kept")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="600 images of generator training, few of all else")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def speed(arguments: argparse.Namespace) -> Part:
    """Training at 128 px against the peers at the number of parameters that diffaug plans."""
    options = ["--sizes", str(SIDE), "--batch", "16", *["--quick"] * arguments.quick]
    options += [] if arguments.device == "auto" else ["--device", arguments.device]
    rows = train_speed.rows_of(speed_parser(None).parse_args(options))
    return {"train_ratio_128px": train_speed.summarize(rows)["train_ratio_min"]}, rows


def quality(arguments: argparse.Namespace) -> Part:
    """Kernel distances after equal minutes on flowers at 128 px."""
    if arguments.flowers is None:
        return {}, []
    data = prepare("flowers-128", arguments.flowers, arguments.work)
    options = ["--minutes", str(arguments.minutes or PEERS_MINUTES)] if not arguments.quick else ["--quick"]
    options += ["--device", arguments.device, "--work", str(arguments.work / "quality")]
    options += ["--set", f"data.image_size={SIDE}", "diffusion.route=pixels"]
    rows = quality_per_minute.compare(quality_per_minute.parse([str(data), *options]))
    return {"kid_ratio_128px": quality_per_minute.summarize(rows)["kid_ratio_worst"]}, rows


def cascade(arguments: argparse.Namespace) -> Part:
    """The upscaler of a cascade against bicubic interpolation, on real test images."""
    rows = [
        row
        for key, (name, side) in CASCADES.items()
        if (folder := _folder(key, arguments))
        for row in _enlarged_rows(key, name, folder, side, arguments)
    ]
    ratios = [row["over_bicubic"] for row in rows if row["images"] == "cascade"]
    return {"cascade_over_bicubic_kid": max(ratios)} if ratios else {}, rows


def gains(arguments: argparse.Namespace) -> Part:
    """The whole job at real sizes, with unlabeled images and the default route."""
    figures: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    options = argparse.Namespace(work=arguments.work / "gain", quick=arguments.quick, minutes=arguments.minutes)
    options.no_encoder = False
    for key, name in GAINS.items():
        if folder := _folder(key, arguments):
            result = gain.generated(name, folder, "auto", 0, options).evaluate()
            print(f"{key}: {result.verdict.headline}", flush=True)
            figures |= {f"{key}.{figure}": value for figure, value in gain.figures(result).items()}
            rows += [{"set": key, **{str(name): value for name, value in row.items()}} for row in _table(result)]
    return figures, rows


PARTS: dict[str, Callable[[argparse.Namespace], Part]] = {
    "speed": speed,
    "quality": quality,
    "cascade": cascade,
    "gain": gains,
}


def _folder(key: str, arguments: argparse.Namespace) -> Path | None:
    folder: Path | None = getattr(arguments, key)
    return folder


def _table(result: Any) -> list[Mapping[Any, Any]]:
    rows: list[Mapping[Any, Any]] = result.table().to_dict("records")
    return rows


def _enlarged_rows(
    key: str, name: str, folder: Path, side: int, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    settings: dict[str, Any] = {"data.image_size": side, "diffusion.route": "cascade", "device": arguments.device}
    settings |= {"tracking.mlflow": False, "advanced.pilot": False}
    settings |= (
        {"diffusion.images_seen": QUICK_IMAGES, "advanced.base_channels": 16}
        if arguments.quick
        else {"diffusion.minutes": arguments.minutes or 20.0}
    )
    augmenter = diffaug.DiffusionAugmenter(
        study=arguments.work / f"cascade-{key}", settings=settings, verbose=not arguments.quick
    ).fit(prepare(name, folder, arguments.work, unlabeled=True))
    generator, catalog = augmenter.generator_, augmenter.inspect()
    train, test = catalog.images("train"), catalog.images("test")
    if arguments.quick:
        test = test.select(np.concatenate([np.flatnonzero(test.labels == k)[:QUICK_TESTED] for k in set(test.labels)]))
    assert isinstance(generator, CascadeGenerator)
    small = generator.reduction.reduced(test.pixels)
    shown = {"real": np.asarray(test.pixels), "bicubic": bicubic(generator, small)}
    shown["cascade"] = enlarged(generator, small, test.labels)
    yield from compared(key, shown, train, test, arguments)


def bicubic(generator: CascadeGenerator, small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small images uint8 (N, h, w, C) enlarged by interpolation alone."""
    large = generator.reduction.enlarged(torch.from_numpy(small).permute(0, 3, 1, 2))
    return large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def enlarged(generator: CascadeGenerator, small: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The same enlarged by the upscaler under their labels."""
    height, width = generator.image_size
    result = np.empty((len(small), height, width, generator.channels), np.uint8)
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        drawing = Drawing(label, own.tolist(), DEFAULT_SAMPLING, purpose="benchmark")
        result[own] = generator.upscaler.enlarge(small[own], drawing).pixels
    return result


def compared(
    key: str,
    shown: Mapping[str, NDArray[np.uint8]],
    train: LabeledImages,
    test: LabeledImages,
    arguments: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """One row per way to show the test images: kernel distance to the real ones, balanced accuracy."""
    updates = QUICK_UPDATES if arguments.quick else default_updates(len(train))
    seen_by = encoder_by_name("auto") or Extractor.fit(train, "cpu", updates)
    features = {name: np.asarray(seen_by.features(pixels), np.float64) for name, pixels in shown.items()}
    kid = {name: kernel_distance(features["real"], features[name]) for name in shown}
    prior = np.log(np.maximum(train.class_counts, 1))
    recipe = TrainingRecipe(updates=updates)
    model = fit_network(TrainingSet.real_only(train, prior), recipe=recipe, seed=0, purpose="real sizes", exact=True)
    for name, pixels in shown.items():
        right = predict_probabilities(model, pixels).argmax(axis=1) == test.labels
        accuracy, _ = balanced_accuracy(right, test.labels)
        over = kid["cascade"] / kid["bicubic"] if name == "cascade" else None
        yield {"set": key, "images": name, "kid": kid[name], "balanced_accuracy": accuracy, "over_bicubic": over}


if __name__ == "__main__":
    main()
