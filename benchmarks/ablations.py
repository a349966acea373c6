"""Whether each default of training and sampling earns its place.

    python benchmarks/ablations.py DATA [--minutes 5 | --images N] [--variants default no-dropout] [--seeds 0 1 2]
                                   [--work FOLDER] [--quick] [--json FILE]

DATA has class folders in `train/` and `test/`. Each variant changes a default and trains generators of several seeds
for the same time, or on the same number of images. Each is judged by its unfiltered samples' kernel distance to the
real test images (fidelity.py), and by its pool: balanced accuracy of a classifier with balanced softmax, trained
without synthetic images and with 30 % of them in each batch. Differences to the default are of equal seeds.

Each variant and seed is a study in the work folder, named by its settings; a later run goes on where this one stopped.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffaug
from diffaug.configuration.sources import resolve
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning import defaults
from diffaug.files import storage

from fidelity import Extractor, measure_distances
from measuring import write_report
from ours import draw

ARMS = ("balanced softmax", "best real + synthetic")
SHARE = 0.3
DEFAULT = "default"
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "classes as found": {"CLASS_TEMPERATURE": 1.0},
    "classes uniform": {"CLASS_TEMPERATURE": 0.0},
    "repeats uncapped": {"MAX_REPEATS_PER_IMAGE": 1_000_000},
    "repeats capped at 50": {"MAX_REPEATS_PER_IMAGE": 50},
    "no dropout": {"diffusion.dropout": 0.0},
    "more dropout": {"diffusion.dropout": 0.2},
    "no label dropout": {"LABEL_DROPOUT": 0.0},
    "no uncertainty weighting": {"UNCERTAINTY_WEIGHTING": False},
    "mirrored": {"diffusion.horizontal_flip": True},
    "never augmented": {"diffusion.augmentation": 0.0},
    "augmented": {"diffusion.augmentation": 0.12},
    "ddpm objective": {"diffusion.objective": "ddpm"},
    "tiny network": {"diffusion.preset": "tiny"},
    "medium network": {"diffusion.preset": "medium"},
    "smaller batch": {"diffusion.batch_size": 32},
    "larger batch": {"diffusion.batch_size": 128},
    "twice the learning rate": {"diffusion.learning_rate": 4e-3},
    "half the learning rate": {"diffusion.learning_rate": 1e-3},
    "quarter of the learning rate": {"diffusion.learning_rate": 5e-4},
    "guidance 2 in its interval": {"synthesis.guidance_scale": 2.0},
    "autoguidance 2": {"synthesis.guidance_scale": 2.0, "synthesis.guidance_method": "autoguidance"},
    "ancestral": {"synthesis.solver": "ancestral", "synthesis.num_inference_steps": 50},
    "heun": {"synthesis.solver": "heun"},
    "ipndm, 8 steps": {"synthesis.solver": "ipndm", "synthesis.num_inference_steps": 8},
    "8 steps": {"synthesis.num_inference_steps": 8},
    "24 steps": {"synthesis.num_inference_steps": 24},
    "no filter": {"synthesis.filters": []},
    "no variations": {"synthesis.variation_fraction": 0.0},
    "half variations": {"synthesis.variation_fraction": 0.5},
}
"""Settings by dotted key, and numbers of `planning.defaults` in capitals."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = parse(argv)
    train, test, device = read_images(arguments)
    extractor = Extractor.fit(train, device, arguments.feature_updates)
    rows = []
    for seed in arguments.seeds:  # the outer loop, so that whatever is finished compares
        for variant in arguments.variants:
            rows.append(run(variant, seed, test, extractor, arguments))
            print(f"{variant}, seed {seed}: KID {rows[-1]['kid']:.4g}", flush=True)
    table = compare(rows)
    write_report(arguments.json, summarize(table), table)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; `--quick` shortens what is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and test/")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="of training each generator; 5")
    budget.add_argument("--images", type=int, help="seen by each generator, instead")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="the default comes with them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--per-class", type=int, help="images sampled of each class for the distances; 100")
    parser.add_argument("--repetitions", type=int, default=3, help="classifiers of each arm and generator")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"), help="where studies are kept")
    parser.add_argument("--feature-updates", type=int, help="training of the classifier; none: by the data")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="1000 images, small networks, 8 images a class")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    arguments.variants = list(dict.fromkeys([DEFAULT, *(arguments.variants or VARIANTS)]))
    arguments.per_class = arguments.per_class or (8 if arguments.quick else 100)
    if not arguments.images and not arguments.minutes:
        arguments.images, arguments.minutes = (1000, None) if arguments.quick else (None, 5.0)
    return arguments


def read_images(arguments: argparse.Namespace) -> tuple[LabeledImages, LabeledImages, str]:
    """Real images for training and for testing, as diffaug reads them, and the device."""
    study = arguments.work / f"images-{storage.fingerprint(arguments.data.resolve())}"
    settings = {"tracking.mlflow": False, "device": arguments.device}
    augmenter = diffaug.DiffusionAugmenter(study=study, settings=settings, verbose=False).attach(arguments.data)
    catalog = augmenter.inspect()
    return catalog.images("train"), catalog.images("test"), augmenter.job.device


def settings_of(variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The configuration of one study by dotted key."""
    budget = (
        {"diffusion.images_seen": arguments.images} if arguments.images else {"diffusion.minutes": arguments.minutes}
    )
    quick = {"advanced.base_channels": 16, "evaluation.max_steps": 20} if arguments.quick else {}
    shared = {
        "seed": seed,
        "device": arguments.device,
        "tracking.mlflow": False,
        "evaluation.arms": list(ARMS),
        "evaluation.num_seeds": arguments.repetitions,
        "evaluation.synthetic_fraction": SHARE,  # chosen each time, it would be one more difference
    }
    return shared | quick | budget | {key: value for key, value in VARIANTS[variant].items() if "." in key}


def study_of(variant: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Where a variant's study lies; all defaults belong to its name, since with other ones it is another study."""
    config = resolve(settings_of(variant, seed, arguments)).config.model_dump(mode="json")
    name = f"{variant.replace(' ', '-')}-{seed}-{storage.fingerprint([arguments.data.resolve(), config])}"
    return Path(arguments.work / name)


def _share_generator(default: Path, study: Path, variant: str) -> None:
    """Gives a study that only samples in another way the default's generator, instead of training its like again."""
    trains = any(not key.startswith("synthesis.") for key in VARIANTS[variant])
    if default != study and not trains and not (study / "generator").exists():
        storage.copy_directory(default / "generator", study / "generator")


def run(
    variant: str, seed: int, test: LabeledImages, extractor: Extractor, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Trains, samples and evaluates one generator; whatever is on disk already is read."""
    settings, study = settings_of(variant, seed, arguments), study_of(variant, seed, arguments)
    augmenter = diffaug.DiffusionAugmenter(study=study, settings=settings, verbose=False).attach(arguments.data)
    _share_generator(study_of(DEFAULT, seed, arguments), study, variant)
    with patch.dict(vars(defaults), {key: value for key, value in VARIANTS[variant].items() if key.isupper()}):
        augmenter.fit(arguments.data).generate()
        images_seen = augmenter.plan().images_seen
    result = augmenter.evaluate()
    distances = measure_distances(extractor, test, draw(augmenter, arguments.per_class))
    accuracy = {arm.name: arm.mean() for arm in result.arms}
    return {
        "variant": variant,
        "seed": seed,
        "images seen": images_seen,
        "kid": distances.kid,
        "frechet": distances.frechet,
        "balanced accuracy": accuracy[ARMS[1]],
        "gain": accuracy[ARMS[1]] - accuracy[ARMS[0]],
        "class_kid": distances.class_kid,
    }


def compare(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a variant: means over the seeds, and paired differences to the default with their deviation.

    Args:
        rows: Of `run`; every variant with the same seeds.
    """
    by_variant: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], {})[row["seed"]] = row
    base = by_variant[DEFAULT]
    table = []
    for variant, runs in by_variant.items():
        line: dict[str, Any] = {"variant": variant, "seeds": len(runs)}
        for figure in ("images seen", "kid", "frechet", "balanced accuracy", "gain"):
            line[figure] = statistics.mean(run[figure] for run in runs.values())
        for figure in ("kid", "balanced accuracy"):
            differences = [run[figure] - base[seed][figure] for seed, run in runs.items()]
            line[f"{figure} change"] = statistics.mean(differences)
            line[f"{figure} change sd"] = statistics.stdev(differences) if len(differences) > 1 else None
        table.append(line | {"runs": list(runs.values())})
    return table


def summarize(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The default's figures, and the variants that beat it in every seed by distance and by accuracy."""
    base = next(line for line in table if line["variant"] == DEFAULT)
    default = {run["seed"]: run for run in base["runs"]}

    def beats(line: Mapping[str, Any], figure: str, sign: int) -> bool:
        return all(sign * (run[figure] - default[run["seed"]][figure]) > 0 for run in line["runs"])

    others = [line for line in table if line["variant"] != DEFAULT]
    return {
        "default_kid": base["kid"],
        "default_balanced_accuracy": base["balanced accuracy"],
        "better_by_kid": ", ".join(line["variant"] for line in others if beats(line, "kid", -1)),
        "better_by_accuracy": ", ".join(line["variant"] for line in others if beats(line, "balanced accuracy", 1)),
    }


if __name__ == "__main__":
    main()
