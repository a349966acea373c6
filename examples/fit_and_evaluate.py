"""Fits a generator on long-tailed digits, fills up the rare classes and asks whether that helps.

python examples/fit_and_evaluate.py [FOLDER]
"""

import sys
from pathlib import Path

import diffaug
from diffaug.data.demo import write_long_tailed_digits


def main(folder: Path) -> None:
    """Runs the whole job in `folder`; run it again to resume."""
    images = write_long_tailed_digits(folder / "digits")  # your own folder of class folders goes here
    augmenter = diffaug.DiffusionAugmenter(time_budget="2m", study=folder / "study").fit(images)

    pool = augmenter.generate(sampling_strategy="auto")
    print(f"{len(pool)} synthetic images in {pool.root}")
    print(pool.manifest["label"].value_counts().to_string())

    result = augmenter.evaluate()
    print(result.table())
    print(f"verdict: {result.verdict.decision}; see {augmenter.study.report}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example"))
