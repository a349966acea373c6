"""What the filters of the pool reject of what they should and should not, and whether each makes a better classifier.

    python benchmarks/filters.py DATA [--study STUDY] [--encoder NAME] [--seeds 0 1 2] [--work FOLDER] [--quick]
        [--json FILE]

DATA has class folders in `train/` and `test/`. For each seed filters are trained on all of `train/`. They see planted
copies of training images, planted images of a wrong class (test images under a random other label), noise, blurred
test images, and good ones (test images under their own label): the constants of the filters were chosen on parts of
`train/`, so the test images are new. With an encoder the filters use it where it recognizes more held-out images.

STUDY holds a generator that was fitted to the same images. Its samples, the same for all, are filtered in turn by no
filter, by each alone, by all but each, and by all. Each time a classifier is trained with balanced softmax, three
tenths of each batch being kept ones, the same number for each class in all cases while enough were kept, and scored
by balanced accuracy on the test images.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

import diffaug
from diffaug.classifiers.encoders.by_name import encoder_by_name, typical_side
from diffaug.classifiers.library import classifier_by_name
from diffaug.classifiers.training_set import TrainingRecipe, default_updates
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.configuration.settings import FILTER_NAMES, SynthesisSettings
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.training.batches import hold_out
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.experiment.training_sets import Examples, training_set
from diffaug.evaluation.statistics.metrics import classification_metrics
from diffaug.files import storage
from diffaug.runtime import seeding
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.filters.preparing import prepare_filters
from diffaug.synthesis.filters.scores import COPY, DUPLICATE
from diffaug.synthesis.pool.targets import resolve_targets

from measuring import write_report

ARM, SHARE = "best real + synthetic", 0.3
NONE, ALL = "no filter", "all filters"
SPARE = 2.0
CHUNK = 100
CROPPED = 0.9

Pixels = NDArray[np.uint8]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = parse(argv)
    catalog, device = read_catalog(arguments)
    train, test = catalog.images("train"), catalog.images("test")
    groups = hold_out(catalog, fraction=0, seed=0).groups
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        folder = arguments.work / f"filters-{seed}"
        filters = prepare_filters(
            folder,
            train,
            groups,
            settings=SynthesisSettings(),
            seed=seed,
            device=device,
            encoder=encoder_by_name(arguments.encoder, device, image_side=typical_side(train.pixels)),
            only_if_better=True,
        )
        print(f"seed {seed}: {filters.encoder_name}, {filters.recognition}", flush=True)
        rows += planted(filters, train, test, seed, arguments.planted)
        if arguments.study:
            samples = read_samples(arguments, train)
            rows += downstream(filters, train, test, samples, seed, device, arguments)
    write_report(arguments.json, summarize(rows), rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; `--quick` shortens what is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and test/")
    parser.add_argument("--study", type=Path, help="whose generator is sampled; none: only planted images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--encoder", default="none", help="as the setting `encoder`")
    parser.add_argument("--planted", type=int, help="copies of each kind; 1000")
    parser.add_argument("--updates", type=int, help="of each classifier; none: by the data")
    parser.add_argument("--work", type=Path, default=Path("runs/filters"), help="where filters and samples are kept")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="short trainings, few planted and sampled images")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    arguments.planted = arguments.planted or (20 if arguments.quick else 1000)
    arguments.updates = arguments.updates or (20 if arguments.quick else None)
    return arguments


def read_catalog(arguments: argparse.Namespace) -> tuple[Catalog, str]:
    """The images as diffaug reads them, and the device."""
    settings = {"tracking.mlflow": False, "device": arguments.device}
    name = f"images-{storage.fingerprint(arguments.data.resolve())}"
    augmenter = diffaug.DiffusionAugmenter(study=arguments.work / name, settings=settings, verbose=False)
    augmenter.attach(arguments.data)
    return augmenter.inspect(), augmenter.job.device


def mirrored(image: Pixels, random: np.random.Generator) -> Pixels:
    """Left to right."""
    return image[:, ::-1]


def cropped(image: Pixels, random: np.random.Generator) -> Pixels:
    """Nine tenths of each side, anywhere, enlarged again."""
    height, width = image.shape[:2]
    top, left = random.uniform(0, 1 - CROPPED, 2) * (height, width)
    box = (left, top, left + CROPPED * width, top + CROPPED * height)
    enlarged = Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(enlarged).reshape(image.shape)


def compressed(image: Pixels, random: np.random.Generator) -> Pixels:
    """JPEG of quality 50."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


KINDS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "exact": lambda image, random: image,
    "mirrored": mirrored,
    "cropped": cropped,
    "JPEG 50": compressed,
}


def planted(
    filters: CalibratedFilters, train: LabeledImages, test: LabeledImages, seed: int, count: int
) -> list[dict[str, Any]]:
    """Shares rejected of planted copies, of images of a wrong class, and of good images by class."""
    random = seeding.numpy_generator(seed, "planted")
    chosen = random.permutation(len(train))[:count]
    rows = []
    for kind, change in KINDS.items():
        pixels = np.stack([change(train.pixels[i], random) for i in chosen])
        copies = replace(train.select(chosen), pixels=pixels)
        rows.append(row(seed, "copies", kind, rejections(filters, copies)[COPY].mean(), len(copies)))
    good = rejections(filters, test)
    rows.append(row(seed, "good as copies", "", good[COPY].mean(), len(test)))
    noise = np.clip(random.normal(127, 60, test.pixels.shape), 0, 255).astype(np.uint8)
    blurred = gaussian_filter(test.pixels.astype(np.float32), (0, 2, 2, 0)).astype(np.uint8)
    for kind, pixels in (("noise", noise), ("blurred", blurred)):
        by_filters = by_any(rejections(filters, replace(test, pixels=pixels)), FILTER_NAMES)
        rows.append(row(seed, kind, "", by_filters.mean(), len(test)))
    offset = random.integers(1, len(test.classes), len(test))
    swapped = replace(test, labels=(test.labels + offset) % len(test.classes))
    rows.append(row(seed, "wrong class", "", by_any(rejections(filters, swapped), FILTER_NAMES).mean(), len(test)))
    lost = by_any(good, FILTER_NAMES)
    for index in np.argsort(-train.class_counts, kind="stable"):
        own = test.labels == index
        rows.append(
            row(seed, "good", f"{train.classes[index]} ({train.class_counts[index]})", lost[own].mean(), own.sum())
        )
    return rows


def row(seed: int, planted: str, kind: str, share: float, count: int) -> dict[str, Any]:
    """One line of the report."""
    return {
        "seed": seed,
        "shown": planted,
        "kind": kind,
        "rejected": float(share),
        "accuracy": None,
        "images": int(count),
    }


def rejections(filters: CalibratedFilters, images: LabeledImages) -> dict[str, NDArray[np.bool_]]:
    """For each filter whether it rejects each image as an image of its label, bool (N,)."""
    result = {name: np.zeros(len(images), np.bool_) for name in FILTER_NAMES}
    for label in range(len(images.classes)):
        own = np.flatnonzero(images.labels == label)
        candidates = Decoded(images.pixels[own], np.ones(len(own), np.bool_))
        result[DUPLICATE][own] = filters.duplicates(filters(candidates, label).descriptors, label)
        for name, rejected in filters.rejections(candidates.pixels, label).items():
            result[name][own] = rejected
    return result


def by_any(rejected: Mapping[str, NDArray[np.bool_]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Which images some of the named filters reject, bool (N,)."""
    return np.asarray(np.any([rejected[name] & (name in names) for name in FILTER_NAMES], axis=0))


def read_samples(arguments: argparse.Namespace, train: LabeledImages) -> LabeledImages:
    """Twice as many samples of each class as are wanted, made once and kept."""
    generator = diffaug.Generator.load(arguments.study)
    settings = SynthesisSettings()
    targets = resolve_targets(train.counts_by_name, "auto", max_synthetic_ratio=settings.max_synthetic_ratio)
    counts = [min(4, targets[name]) if arguments.quick else int(SPARE * targets[name]) for name in train.classes]
    file = arguments.work / f"samples-{storage.fingerprint([generator.weights_sha256, counts])}.npy"
    if not file.is_file():
        chunks = [
            generator.sample(
                name, range(start, min(start + CHUNK, count)), num_inference_steps=settings.num_inference_steps
            )
            for name, count in zip(generator.classes, counts, strict=True)
            for start in range(0, count, CHUNK)
        ]
        storage.write_array(file, np.concatenate(chunks))
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return LabeledImages(np.load(file), labels, train.classes, tuple(map(str, range(len(labels)))))


def downstream(
    filters: CalibratedFilters,
    train: LabeledImages,
    test: LabeledImages,
    samples: LabeledImages,
    seed: int,
    device: str,
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Balanced accuracy with the samples that each set of filters keeps."""

    @cache
    def accuracy(chosen: tuple[int, ...]) -> float:
        training = training_set(
            ARMS[ARM],
            Examples(train),
            Examples(samples.select(np.array(chosen, np.int64))),
            Mix(SHARE),
            base=ARMS["balanced softmax"],
        )
        recipe = TrainingRecipe(updates=arguments.updates or default_updates(len(train)))
        classifier = classifier_by_name(EvaluationSettings())
        predicted = classifier.fit_predict(training, test.pixels, recipe=recipe, seed=seed, device=device)
        return classification_metrics(test.labels, predicted.argmax(axis=1), len(test.classes))["balanced_accuracy"]

    rejected = rejections(filters, samples)
    wanted = np.bincount(samples.labels, minlength=len(samples.classes)) / SPARE
    rows = []
    for name, names in variants().items():
        lost = by_any(rejected, names)
        chosen = first_of_each_class(samples.labels, ~lost, wanted)
        line = row(seed, "samples", name, lost.mean(), len(chosen))
        rows.append({**line, "accuracy": accuracy(tuple(chosen.tolist()))})
        print(f"seed {seed}, {name}: {rows[-1]['accuracy']:.4f}", flush=True)
    return rows


def variants() -> dict[str, tuple[str, ...]]:
    """Sets of filters by name."""
    alone = {f"only {name}": (name,) for name in FILTER_NAMES}
    without = {f"without {name}": tuple(one for one in FILTER_NAMES if one != name) for name in FILTER_NAMES}
    return {NONE: (), **alone, **without, ALL: FILTER_NAMES}


def first_of_each_class(
    labels: NDArray[np.int64], kept: NDArray[np.bool_], wanted: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Positions of the first kept images of each class, at most as many as wanted of it, int64."""
    chosen = [np.flatnonzero(kept & (labels == label))[: int(count)] for label, count in enumerate(wanted)]
    return np.concatenate(chosen).astype(np.int64)


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Goal figures, means over the seeds; of the copies the kind that is found least.

    `rarest_rejected` and `commonest_rejected` are shares of good images of those classes, and `better_without` the
    filters without which the classifier is better in every seed.
    """

    def mean(shown: str, kind: str | None = None, figure: str = "rejected") -> float | None:
        found = [line[figure] for line in rows if line["shown"] == shown and kind in (None, line["kind"])]
        return statistics.mean(found) if found else None

    by_class = list(dict.fromkeys(line["kind"] for line in rows if line["shown"] == "good"))
    accuracies = {
        kind: {line["seed"]: line["accuracy"] for line in rows if line["kind"] == kind}
        for kind in dict.fromkeys(line["kind"] for line in rows if line["shown"] == "samples")
    }
    whole, none = accuracies.get(ALL, {}), accuracies.get(NONE, {})
    harmful = [
        name
        for name in FILTER_NAMES
        if whole and all(accuracies[f"without {name}"][seed] > accuracy for seed, accuracy in whole.items())
    ]
    return {
        "gain_filtered_over_unfiltered": statistics.mean(whole[seed] - none[seed] for seed in whole) if whole else None,
        "copies_rejected": min(mean("copies", kind) or 0.0 for kind in KINDS),
        "genuine_rejected": mean("good as copies"),
        "wrong_class_rejected": mean("wrong class"),
        "noise_rejected": mean("noise"),
        "blurred_rejected": mean("blurred"),
        "rarest_rejected": mean("good", by_class[-1]),
        "commonest_rejected": mean("good", by_class[0]),
        "better_without": ", ".join(harmful),
    }


if __name__ == "__main__":
    main()
