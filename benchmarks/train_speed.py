"""Images a second in training, against diffusers and denoising-diffusion-pytorch, and the share of the machine's peak.

    python benchmarks/train_speed.py [--quick] [--json FILE] [--sizes 28 32] [--device cpu]

All networks have about the same number of parameters, the same batch and the same precision: float32 on the CPU,
bfloat16 autocast on CUDA. A training step is everything from drawing the batch to the moving average of the weights;
forward is one evaluation without gradients. The systems take turns and medians are compared, always with the faster
peer. The share of the peak counts the operations of one forward pass, three times that for a training step, against
a measured multiplication of large matrices.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from contenders import make_contenders, ratios
from measuring import alternate, count_operations, matmul_peak, print_table, speed_parser, turns, write_report
from ours import Ours

FORWARDS_A_STEP = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = speed_parser(__doc__).parse_args(argv)
    rows = rows_of(arguments)
    write_report(arguments.json, summarize(rows), rows)


def rows_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per device, size and system."""
    rows: list[dict[str, Any]] = []
    for device in arguments.device:
        peak = matmul_peak(device)
        print(f"{device}: matrix-multiply peak {peak / 1e9:.0f} GFLOP/s")
        for size in arguments.sizes:
            measured = measure(size, device, peak, arguments)
            print_table(measured)
            rows += measured
    return rows


def measure(size: int, device: str, peak: float, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a system, for images of `size` px."""
    contenders, batch = make_contenders(size, device, arguments), arguments.batch
    evaluate = {name: partial(contender.evaluate, batch) for name, contender in contenders.items()}
    forward = alternate(evaluate, device, **turns(arguments))
    step = alternate({name: contender.step for name, contender in contenders.items()}, device, **turns(arguments))
    rows = []
    for name, contender in contenders.items():
        operations = count_operations(partial(contender.evaluate, batch)) / batch
        trained = batch / step[name]
        row = {"device": device, "size": size, "system": name, "parameters": contender.parameters}
        row |= {"train images/s": trained, "forward images/s": batch / forward[name]}
        row |= {"MFLOP/image": operations / 1e6, "peak share": FORWARDS_A_STEP * operations * trained / peak}
        rows.append(row)
    return rows


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst ratios to the faster peer, the one at 28 px, and diffaug's share of the peak."""
    small = [row for row in rows if row["size"] == 28]
    return {
        "train_ratio_min": min(ratios(rows, "train images/s")),
        "train_ratio_28px": min(ratios(small, "train images/s"), default=None),
        "forward_ratio_min": min(ratios(rows, "forward images/s")),
        "peak_share_median": statistics.median(row["peak share"] for row in rows if row["system"] == Ours.name),
    }


if __name__ == "__main__":
    main()
