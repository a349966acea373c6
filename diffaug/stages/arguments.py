"""Python arguments as settings."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffaug.augment.materialize import folder_of_dataset, materialize
from diffaug.errors import UsageError
from diffaug.runtime.distributed import current
from diffaug.stages.remedies import repair_record, telling_remedies
from diffaug.study import Study, default_study_path, open_study, plan_study
from diffaug.synthesis.pool.targets import SamplingStrategy, named_strategy

Strategy = SamplingStrategy | None

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_MINUTES = {"s": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0, None: 1.0}


def given_flags(time_budget: str | float | None, **flags: Any) -> dict[str, Any]:
    """The arguments of `DiffusionAugmenter` that stand for a setting, without those that are not given."""
    if isinstance(time_budget, str):
        match = _DURATION.fullmatch(time_budget.strip())
        if not match:
            raise UsageError(f"can't read the time budget '{time_budget}'", fix="write it like 10m, 90s or 1.5h")
        time_budget = float(match[1]) * _MINUTES[match[2]]
    values = {"diffusion.minutes": time_budget, **flags}
    return {key: value for key, value in values.items() if value is not None}


def synthesis_flags(
    strategy: Strategy, settings: Mapping[str, Any], counts: Mapping[str, int], class_to_idx: Mapping[str, int] | None
) -> dict[str, Any]:
    """Settings of the synthesis stage by dotted key, with classes by name.

    A callable strategy gets the training images of each class.
    """
    chosen = {} if strategy is None else {"sampling_strategy": named_strategy(strategy, counts, class_to_idx)}
    return {f"synthesis.{key}": value for key, value in {**chosen, **settings}.items()}


def root_of(data: str | Path) -> Path:
    """The data folder, which must exist."""
    root = Path(data)
    if not root.is_dir():
        what = "this is a file, not a folder" if root.exists() else "there is no such folder"
        raise UsageError(what, where=root, fix="give the folder that holds the images")
    return root


def opened(path: Path, *, overwrite: bool) -> Study:
    """A study that has begun; with `overwrite` a damaged record of it is written anew."""
    with telling_remedies(Study(path)):
        if overwrite:
            repair_record(path)
        return open_study(path)


def study_of(data: Any, path: Path | None, *, overwrite: bool = False) -> Study:
    """The study of a data folder or labeled dataset, at a path or where it belongs; a dataset's images are written.

    With `overwrite` a damaged record of the study is written anew.
    """
    if isinstance(data, str | Path):
        root = root_of(data)
        path = path or default_study_path(root)
        return _planned(path, root, None, overwrite)
    if isinstance(data, np.ndarray | pd.DataFrame):
        what = f"images are given as a folder or a labeled dataset, not as {type(data).__name__}"
        fix = "call fit_resample(X, y), or wrap them in a dataset: TensorDataset(images, labels)"
        raise UsageError(what, where="fit", fix=fix)
    path = path or default_study_path(Path("dataset"))
    images = folder_of_dataset(data, path)
    study = _planned(path, images.root, images.class_to_idx, overwrite)  # before any are written
    with current().main_first():
        materialize(data, images)
    return study


def _planned(path: Path, root: Path, class_to_idx: Mapping[str, int] | None, overwrite: bool) -> Study:
    with telling_remedies(Study(path)):
        if overwrite:
            repair_record(path, root, class_to_idx)
        return plan_study(path, root, class_to_idx)
