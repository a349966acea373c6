"""Images a second in sampling, against diffusers and denoising-diffusion-pytorch.

    python benchmarks/sample_speed.py [--quick] [--json FILE] [--sizes 28 32] [--device cpu]

All networks have about the same number of parameters and the same precision: float32 on the CPU, bfloat16 on CUDA.
One evaluation is the network alone; sampling is a whole call, from noise to uint8 pixels, with 12 evaluations an image
everywhere: diffaug's and diffusers' DPM-Solver++(2M), denoising-diffusion-pytorch's DDIM, all without guidance. How
good images of so few steps are is for quality_per_minute.py to say.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from contenders import make_contenders, ratios
from measuring import alternate, print_table, speed_parser, turns, write_report

STEPS = 12


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = speed_parser(__doc__).parse_args(argv)
    rows: list[dict[str, Any]] = []
    for device in arguments.device:
        for size in arguments.sizes:
            measured = measure(size, device, arguments)
            print_table(measured)
            rows += measured
    summary = {
        "sample_ratio_min": min(ratios(rows, "images/s")),
        "evaluation_ratio_min": min(ratios(rows, "evaluations/s")),
    }
    write_report(arguments.json, summary, rows)


def measure(size: int, device: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a system, for images of `size` px."""
    contenders, batch = make_contenders(size, device, arguments), arguments.batch
    labels = np.zeros(batch, np.int64)
    evaluate = {name: partial(contender.evaluate, batch) for name, contender in contenders.items()}
    sample = {name: partial(contender.sample, labels, STEPS) for name, contender in contenders.items()}
    evaluation = alternate(evaluate, device, **turns(arguments))
    sampling = alternate(sample, device, **turns(arguments))
    return [
        {
            "device": device,
            "size": size,
            "system": name,
            "parameters": contender.parameters,
            "evaluations/s": batch / evaluation[name],
            "images/s": batch / sampling[name],
        }
        for name, contender in contenders.items()
    ]


if __name__ == "__main__":
    main()
