"""Whether training, sampling, resuming, precisions and compilation work on a device, on the demo's digits.

    python benchmarks/device_path.py [--device cuda] [--images 200000] [--work FOLDER] [--quick] [--json FILE]

Trains the same generator five ways through the command line: in the default precision, once more with kills on the way,
in float32, in bfloat16 and compiled. Samples of one generator are drawn on the device and on the CPU. A row holds what
was measured and whether it is right: the killed training must end with the same weights, and the same sample on two
devices may differ by a gray level on average. A training whose batch does not fit into memory must take it in parts; on
a CPU the lack of memory is pretended. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import diffaug
from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.demo import write_long_tailed_digits
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.training.batches import Batch, TrainingData
from diffaug.diffusion.training.loss import TrainingLoss
from diffaug.diffusion.training.training import TrainingState, new_state, train

from measuring import random_images, write_report

MAX_DIFFERENCE = 1.0  # gray levels
SAMPLES = 64
MEMORY_SIDE, MEMORY_BATCH, MEMORY_STEPS, SCARCE_SHARE = {"cpu": 8, "cuda": 32}, 128, 4, 0.6
MAX_WEIGHT_DIFFERENCE = 1e-3  # sums in another order, in TensorFloat-32
KILLS = 2
VARIANTS = {
    "default": (),
    "float32": ("--set", "diffusion.precision=float32"),
    "bfloat16": ("--set", "diffusion.precision=bfloat16"),
    "compiled": ("--set", "diffusion.compile=true"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the checks from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--images", type=int, default=200_000, help="images seen by each training")
    parser.add_argument("--work", type=Path, help="where studies are kept; none: a temporary folder")
    parser.add_argument("--quick", action="store_true", help="1,500 images seen, the default precision, one kill")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        rows = check(arguments, arguments.work or Path(temporary))
    write_report(arguments.json, {"all_right": all(row["right"] for row in rows)}, rows)
    sys.exit(0 if all(row["right"] for row in rows) else 1)


def check(arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """One row per check."""
    data = write_long_tailed_digits(work / "digits")
    images = 1500 if arguments.quick else arguments.images
    variants = {"default": ()} if arguments.quick else VARIANTS
    commands = {
        name: fit_command(data, work / name, arguments.device, images, options) for name, options in variants.items()
    }
    rows = [finish(name, command) for name, command in commands.items()]
    often = "--set", f"advanced.checkpoint_seconds={0.1 if arguments.quick else 0.5}"
    killed = fit_command(data, work / "killed", arguments.device, images, often)
    for _ in range(1 if arguments.quick else KILLS):
        kill_after_a_checkpoint(killed, work / "killed")
    rows.append(finish("killed and resumed", killed, same_as=rows[0]))
    return [*rows, compare_samples(work / "default", arguments.device), run_out_of_memory(arguments.device)]


def fit_command(data: Path, study: Path, device: str, images: int, options: Sequence[str]) -> list[str]:
    """The command line of one training."""
    length = ("--images-seen", str(images), "--device", device)
    return [sys.executable, "-m", "diffaug", "fit", str(data), "--study", str(study), *length, "--no-mlflow", *options]


def finish(name: str, command: Sequence[str], same_as: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs a training to its end; `same_as` is the row of the training that must have equal weights."""
    began = time.perf_counter()
    result = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    weights = json.loads(result.stdout)["results"]["weights_sha256"] if result.returncode == 0 else None
    if weights is None:
        print(result.stderr[-2000:], file=sys.stderr)
    right = weights is not None and (same_as is None or weights == same_as["weights_sha256"])
    return {"check": name, "right": right, "seconds": seconds, "weights_sha256": weights}


def kill_after_a_checkpoint(command: Sequence[str], study: Path) -> None:
    """Starts a training and kills it once it has written a checkpoint that was not there before."""
    checkpoints = study / "generator" / "checkpoints"
    before = set(checkpoints.glob("*/DONE.json"))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not set(checkpoints.glob("*/DONE.json")) - before:
        time.sleep(0.05)
    process.kill()
    process.wait()


def compare_samples(study: Path, device: str) -> dict[str, Any]:
    """Draws the same images on the device and on the CPU."""
    began = time.perf_counter()
    there, here = (
        diffaug.Generator.load(study / "generator", device=place).sample("3", range(SAMPLES))
        for place in (device, "cpu")
    )
    difference = float(np.abs(there.astype(float) - here.astype(float)).mean())
    row = {"check": f"samples on {device} and cpu, difference {difference:.3f}", "right": difference <= MAX_DIFFERENCE}
    return row | {"seconds": time.perf_counter() - began, "weights_sha256": None}


def run_out_of_memory(device: str) -> dict[str, Any]:
    """Trains with room for less than a batch; the parts must leave the weights as a whole batch does."""
    began = time.perf_counter()
    whole, peak = few_steps(device)
    with scarce_memory(device, peak):
        parted, _ = few_steps(device)
    difference = float((parted.average - whole.average).abs().max())
    right = whole.micro_batches == 1 < parted.micro_batches and difference <= MAX_WEIGHT_DIFFERENCE
    check = f"out of memory, {parted.micro_batches} parts, weights differ by {difference:.1e}"
    return {"check": check, "right": right, "seconds": time.perf_counter() - began, "weights_sha256": None}


def few_steps(device: str) -> tuple[TrainingState, int]:
    """Some steps in float32 and the bytes that they took; the bytes are 0 on a CPU."""
    images = random_images(MEMORY_SIDE[device])
    settings = DiffusionSettings(batch_size=MEMORY_BATCH, precision="float32", dropout=0.0)
    plan = replace(make_plan(images, settings, device), images_seen=MEMORY_STEPS * MEMORY_BATCH)
    data, state = TrainingData.of(images, device), new_state(plan, device, seed=0)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in train(state, data, plan, seed=0):
        pass
    return state, torch.cuda.max_memory_reserved() if device == "cuda" else 0


@contextmanager
def scarce_memory(device: str, peak: int) -> Iterator[None]:
    """Leaves less memory than a batch took; on a CPU pretends that no more than half a batch fits."""
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        held = torch.cuda.memory_allocated()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((held + SCARCE_SHARE * (peak - held)) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return

    def limited(loss: TrainingLoss, batch: Batch) -> tuple[Tensor, Tensor]:
        if len(batch.labels) > MEMORY_BATCH // 2:
            raise torch.OutOfMemoryError("pretended")
        return forward(loss, batch)

    forward = TrainingLoss.forward
    with patch.object(TrainingLoss, "forward", limited):
        yield


if __name__ == "__main__":
    main()
