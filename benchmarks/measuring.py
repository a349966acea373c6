"""What the speed benchmarks share: alternating timings, the machine's peak, counted operations, and the report."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffaug.data.images import LabeledImages
from diffaug.files import storage
from diffaug.runtime import seeding

PACKAGES = ("diffaug", "torch", "numpy", "diffusers", "denoising-diffusion-pytorch")
PEAK_SIZES = {"cpu": 2048, "cuda": 8192}
CHANNELS = {8: 1, 28: 1, 32: 3, 64: 3, 128: 3}
USUAL_SIZES = [8, 28, 32, 64]
CLASSES = 10
IMAGES = 512

Action = Callable[[], object]


def speed_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of every speed benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short repetitions")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), nargs="+", default=available_devices())
    parser.add_argument("--sizes", type=int, nargs="+", choices=CHANNELS, default=USUAL_SIZES, help="pixels")
    parser.add_argument("--parameters", type=int, help="about, of every network; none: as diffaug itself plans")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, help="turns that each system has; the median counts")
    parser.add_argument("--seconds", type=float, help="length of a turn")
    return parser


def turns(arguments: argparse.Namespace) -> dict[str, Any]:
    """Number and length of the turns, for `alternate`."""
    quick = arguments.quick
    return {
        "rounds": arguments.rounds or (2 if quick else 7),
        "seconds": (0.1 if quick else 1.0) if arguments.seconds is None else arguments.seconds,
    }


def available_devices() -> list[str]:
    """The CPU, and CUDA where there is one."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def random_images(size: int, seed: int = 0) -> LabeledImages:
    """512 images of noise in ten classes, grey at 8 and 28 px and RGB above: speed does not depend on their content."""
    random = seeding.numpy_generator(seed, "benchmark images", size)
    pixels = random.integers(0, 256, (IMAGES, size, size, CHANNELS[size]), dtype=np.uint8)
    labels = np.arange(IMAGES, dtype=np.int64) % CLASSES
    return LabeledImages(pixels, labels, tuple(map(str, range(CLASSES))), tuple(map(str, range(IMAGES))))


def alternate(actions: Mapping[str, Action], device: str, *, rounds: int, seconds: float) -> dict[str, float]:
    """Times actions in turn, so that a slow minute of the machine meets all of them.

    Args:
        actions: What to time, by name.
        device: `cpu` or `cuda`; CUDA is waited for before the clock is read.
        rounds: How often each one has its turn, after one that is not counted.
        seconds: Length of a turn; an action runs at least once in it.

    Returns:
        Seconds of one run of each action, the median over rounds.
    """
    for action in actions.values():
        _turn(action, device, seconds / 4)
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(_turn(action, device, seconds))
    return {name: statistics.median(measured) for name, measured in times.items()}


def _turn(action: Action, device: str, seconds: float) -> float:
    _wait_for(device)
    began, runs = time.perf_counter(), 0
    while True:
        action()
        runs += 1
        _wait_for(device)
        elapsed = time.perf_counter() - began
        if elapsed >= seconds:
            return elapsed / runs


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_peak(device: str, *, repetitions: int = 8) -> float:
    """Operations a second of multiplying large square matrices, the best of several; multiply and add count as two.

    In float32 on the CPU and in bfloat16 on CUDA, the precision that the networks are run in.
    """
    size, dtype = PEAK_SIZES[device], torch.bfloat16 if device == "cuda" else torch.float32
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(_turn(lambda: torch.mm(left, right), device, 0.0) for _ in range(repetitions + 1))


def count_operations(action: Action) -> float:
    """Operations of convolutions, matrix products and attention in one run; multiply and add count as two."""
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops())


def machine() -> dict[str, Any]:
    """What it ran on."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def versions() -> dict[str, str]:
    """What it ran with; a peer that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as a table, numbers to four digits; nested values are left out, and what a row lacks is empty."""
    values = {name: value for row in rows for name, value in row.items()}
    columns = [name for name, value in values.items() if not isinstance(value, Mapping | list)]
    lines = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def write_report(file: Path | None, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows and summary, and writes both with machine and versions as JSON where a file is named."""
    print_table(rows)
    for name, value in summary.items():
        print(f"{name}: {_cell(value) or 'none'}")
    if file:
        content = {"summary": summary, "rows": rows, "machine": machine(), "versions": versions()}
        storage.write_json(file, content)
