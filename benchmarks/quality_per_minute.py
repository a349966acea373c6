"""Quality after equal training time, against diffusers and denoising-diffusion-pytorch.

    python benchmarks/quality_per_minute.py DATA [--minutes 2 5 10] [--work FOLDER] [--quick] [--json FILE]

DATA has class folders in `train/` and `test/`. Every system trains on the same images; then equally many images of
each class are sampled from each and compared with the real test images, by kernel distance (KID) and Frechet distance,
both in the features of a classifier of the real training images (fidelity.py). The peers are as in peers.py, at the
number of parameters that diffaug chooses for these images, and sample with more steps than diffaug does.

diffaug's time is all of `fit`: reading the images, measuring its speed, checkpoints and sample grids. The peers train
for as long as that took, at least the budget, and only their training steps count. Peers whose learning rate is
constant are sampled at every budget of one training; the others are trained anew for each.

Results lie in the work folder, one a system and budget; a later run uses them again and makes only what is missing.
They are known by the settings and not by the code, so after a change of diffaug's code say `--again diffaug`.
`real` in the table compares one half of the test images with the other: nothing can be expected to do better.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import diffaug
from diffaug.configuration.sources import resolve
from diffaug.configuration.yaml_files import parse_value
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.grids import contact_sheet
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.files import storage

from contenders import SYSTEMS
from fidelity import Extractor, equal_classes, measure_distances
from measuring import write_report
from ours import Ours, draw, labelled, planned_parameters
from peers import PEERS, make_peer, train_until

SAMPLING_STEPS = {"diffusers": 25, "denoising-diffusion-pytorch": 50}
SHEET_COLUMNS = 10
REAL = "real"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = parse(argv)
    rows = compare(arguments)
    write_report(arguments.json, summarize(rows), rows)


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per system and budget, and one for real images; writes a sheet of samples for each."""
    comparison = Comparison(arguments)
    extractor = Extractor.fit(comparison.train, comparison.device, arguments.feature_updates)
    rows = [_row(Result(REAL, 0.0, 0.0, 0), extractor, *halves(comparison.test))]
    for system in arguments.systems:
        for result, images in comparison.results(system, arguments.minutes):
            _write_sheet(arguments.work / "sheets" / f"{system}-{result.minutes:g}min.png", images)
            rows.append(_row(result, extractor, comparison.test, images))
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; `--quick` shortens what is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and test/")
    parser.add_argument("--minutes", type=float, nargs="+", help="budgets; 2 5 10")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--per-class", type=int, help="images sampled of each class; 100")
    parser.add_argument("--work", type=Path, default=Path("runs/quality-per-minute"), help="where results are kept")
    parser.add_argument("--again", nargs="*", choices=SYSTEMS, default=[], help="systems whose results are made anew")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of diffaug")
    parser.add_argument("--parameters", type=int, help="of the peers' networks; none: as many as diffaug's")
    parser.add_argument("--feature-updates", type=int, help="training of the classifier; none: by the data")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="budgets of 3 and 6 seconds, 8 images a class")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    arguments.minutes = sorted(arguments.minutes or ([0.05, 0.1] if arguments.quick else [2.0, 5.0, 10.0]))
    arguments.systems = [system for system in SYSTEMS if system in arguments.systems]  # diffaug's time comes first
    arguments.per_class = arguments.per_class or (8 if arguments.quick else 100)
    return arguments


class Comparison:
    """Trains and samples what the work folder does not hold yet.

    Args:
        arguments: The command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        given = (assignment.split("=", 1) for assignment in arguments.set)
        self._settings = {key: parse_value(value, where="--set") for key, value in given}
        self._settings |= {"tracking.mlflow": False, "device": arguments.device, "seed": arguments.seed}
        self._config = resolve(self._settings).config
        self._data: Path = arguments.data
        self._work: Path = arguments.work
        self._per_class: int = arguments.per_class
        data = [self._data.resolve(), self._config.data.model_dump(mode="json")]
        study = self._work / "studies" / f"images-{storage.fingerprint(data)}"
        augmenter = diffaug.DiffusionAugmenter(study=study, settings=self._settings, verbose=False).attach(self._data)
        catalog = augmenter.inspect()
        self.device = augmenter.job.device
        self.train, self.test = catalog.images("train"), catalog.images("test")
        self._parameters = arguments.parameters or planned_parameters(self.train, self._config.diffusion, self.device)
        self._shared = [*data, self.device, self._per_class, arguments.seed]
        for system in arguments.again:
            for minutes in arguments.minutes:
                storage.discard_directory(self._folder(system, minutes))

    def results(self, system: str, budgets: Sequence[float]) -> Iterator[tuple[Result, LabeledImages]]:
        """A system's results, one a budget in minutes, made where they are missing."""
        missing = [minutes for minutes in budgets if self._facts(system, minutes) is None]
        if system == Ours.name:
            for minutes in missing:
                self._make_ours(minutes)
        elif PEERS[system][0].follows_budget:
            for minutes in missing:
                self._make_peer(system, [minutes])
        elif missing:
            self._make_peer(system, missing)
        for minutes in budgets:
            facts = self._facts(system, minutes)
            assert facts is not None
            pixels = np.load(self._folder(system, minutes) / "pixels.npy")
            yield Result(system, minutes, **facts), labelled(pixels, self.train.classes)

    def _make_ours(self, minutes: float) -> None:
        study = self._work / "studies" / f"{Ours.name}-{minutes:g}min"
        storage.discard_directory(study)  # a training that goes on would be timed only in part
        began = time.monotonic()
        augmenter = diffaug.DiffusionAugmenter(
            time_budget=minutes, study=study, settings=self._settings, verbose=False
        ).fit(self._data)
        seconds = time.monotonic() - began
        generator = augmenter.generator_
        assert isinstance(generator, PixelGenerator)
        parameters = sum(weights.numel() for weights in generator.denoiser.parameters())
        self._write(Result(Ours.name, minutes, seconds, parameters), draw(augmenter, self._per_class).pixels)

    def _make_peer(self, system: str, budgets: Sequence[float]) -> None:
        ours = [self._facts(Ours.name, minutes) or {"seconds": 0.0} for minutes in budgets]
        stops = [max(60 * minutes, facts["seconds"]) for minutes, facts in zip(budgets, ours, strict=True)]
        peer = make_peer(system, self.train, parameters=self._parameters, device=self.device, seed=self._config.seed)
        labels = np.repeat(np.arange(len(self.train.classes)), self._per_class)
        for minutes, seconds in zip(budgets, train_until(peer, stops), strict=True):
            pixels = peer.sample(labels, SAMPLING_STEPS[peer.package])
            self._write(Result(system, minutes, seconds, peer.parameters), pixels)

    def _folder(self, system: str, minutes: float) -> Path:
        depends = [self._config.diffusion, self._config.synthesis] if system == Ours.name else []
        content: list[Any] = [*self._shared, *(section.model_dump(mode="json") for section in depends)]
        content += [] if depends else [f"{self._parameters:.1e}", repr(PEERS[system])]
        return self._work / "results" / f"{system.replace(' ', '-')}-{minutes:g}min-{storage.fingerprint(content)}"

    def _facts(self, system: str, minutes: float) -> dict[str, Any] | None:
        return storage.committed_metadata(self._folder(system, minutes), verify=True)

    def _write(self, result: Result, pixels: NDArray[np.uint8]) -> None:
        facts = {"seconds": result.seconds, "parameters": result.parameters}
        with storage.new_directory(self._folder(result.system, result.minutes), facts) as folder:
            storage.write_array(folder / "pixels.npy", pixels)


@dataclass(frozen=True)
class Result:
    """One training.

    Attributes:
        system: `diffaug` or a key of `PEERS`.
        minutes: Its budget.
        seconds: What it took.
        parameters: Size of the network.
    """

    system: str
    minutes: float
    seconds: float
    parameters: int


def halves(images: LabeledImages) -> tuple[LabeledImages, LabeledImages]:
    """Every other image of each class, and the rest."""
    equal = equal_classes(images)
    positions = np.arange(len(equal))
    return equal.select(positions[0::2]), equal.select(positions[1::2])


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Diffaug's kernel distance over the best peer's: the worst budget, and 5 minutes of it against 10 of theirs.

    None where a budget is missing, or where a peer's distance is not above 0, which no ratio can say. With them the
    most time that diffaug had for each second of a peer's.
    """
    ours = {row["minutes"]: row for row in rows if row["system"] == Ours.name}
    peers = [row for row in rows if row["system"] not in (Ours.name, REAL)]
    best = {minutes: min((row["kid"] for row in peers if row["minutes"] == minutes), default=0.0) for minutes in ours}
    pairs = [_ratio(ours[minutes]["kid"], best[minutes]) for minutes in ours]
    worst = max((pair for pair in pairs if pair is not None), default=None)
    shorter = _ratio(ours[5.0]["kid"], best[10.0]) if {5.0, 10.0} <= set(ours) else None
    times = [ours[row["minutes"]]["seconds"] / row["seconds"] for row in peers if row["minutes"] in ours]
    return {
        "kid_ratio_worst": None if None in pairs else worst,
        "kid_ours_5_over_peer_10": shorter,
        "time_ratio_worst": max(times, default=None),
    }


def _ratio(ours: float, peer: float) -> float | None:
    return ours / peer if peer > 0 else None


def _row(result: Result, extractor: Extractor, real: LabeledImages, other: LabeledImages) -> dict[str, Any]:
    return asdict(result) | asdict(measure_distances(extractor, real, other))


def _write_sheet(file: Path, images: LabeledImages) -> None:
    rows = [np.flatnonzero(images.labels == index)[:SHEET_COLUMNS] for index in range(len(images.classes))]
    sheet = contact_sheet(images.pixels[np.concatenate(rows)], min(SHEET_COLUMNS, len(rows[0])))
    storage.write_bytes(file, storage.png_bytes(sheet))


if __name__ == "__main__":
    main()
