"""What a pipeline is told about each class: one prompt per class, or captions from a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from diffaug.errors import DataError, UsageError, did_you_mean
from diffaug.integrations.pipelines.learned import token_of
from diffaug.runtime.seeding import numpy_generator

CLASS, TOKEN = "{class}", "{token}"
TEMPLATE = "a photo of a {class}"
CLASS_COLUMNS, FILE_COLUMNS = ("class", "label"), ("file_name", "path", "file")
TEXT_COLUMNS, ATTRIBUTE = ("prompt", "caption", "text"), "attribute"


@dataclass(frozen=True)
class Prompts:
    """Prompts by class.

    Attributes:
        by_class: Those that images of a class are sampled with, each as often as it stands there, by class name.
        of_images: Those of single training images, by the path of the image.
        use_tokens: Whether some name a class by its learned token.
    """

    by_class: dict[str, tuple[str, ...]]
    of_images: dict[str, str]
    use_tokens: bool = False

    def of_class(self, label: str, indices: Sequence[int], seed: int, purpose: str) -> list[str]:
        """The prompts of images of a class; that of image i depends on (seed, purpose, class, i) alone."""
        known = self.by_class[label]
        place = list(self.by_class).index(label)
        draws = (numpy_generator(seed, f"{purpose} prompt", place, i).integers(len(known)) for i in indices)
        return [known[int(draw)] for draw in draws]

    def of_image(self, path: str, label: str, draw: int) -> str:
        """The prompt of a training image; `draw` chooses among those of its class if it has none of its own."""
        known = self.by_class[label]
        return self.of_images.get(path) or known[draw % len(known)]

    @property
    def all(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*(one for own in self.by_class.values() for one in own), *self.of_images.values()]))


def prompts_from(setting: str | None, classes: Sequence[str], images: Mapping[str, str]) -> Prompts:
    """The prompts that the setting `diffusion.prompts` asks for: a template, or the table in a file.

    Args:
        setting: None for the usual template.
        classes: Names in index order.
        images: The class of each training image, by path.

    Raises:
        UsageError: It is neither.
        DataError: The table is not as it should be.
    """
    if setting is None or "{" in setting:
        return _from_template(setting or TEMPLATE, classes)
    if not Path(setting).is_file():
        fix = f"such as --set 'diffusion.prompts={TEMPLATE}', or the path of a CSV"
        raise UsageError("the prompts are neither a text with {class} nor a file", where=setting, fix=fix)
    return _from_table(Path(setting), classes, images)


def _from_template(template: str, classes: Sequence[str]) -> Prompts:
    if CLASS not in template and TOKEN not in template:
        fix = f"use {{class}} for its name, as in '{TEMPLATE}', or {{token}} for a learned word"
        raise UsageError(f"the prompt '{template}' does not say the class", where="diffusion.prompts", fix=fix)
    return Prompts({label: (_filled(template, label, classes),) for label in classes}, {}, TOKEN in template)


def _from_table(table: Path, classes: Sequence[str], images: Mapping[str, str]) -> Prompts:
    """One row per caption: a column names the class or the image, others give prompt, attribute or both."""
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own are ValueErrors
        raise DataError(
            f"this is no CSV ({error})", where=table, fix="a table with a header, separated by ,"
        ) from error
    rows.columns = [str(column).strip().casefold() for column in rows.columns]
    of_class, of_file, text = (_column(rows, names) for names in (CLASS_COLUMNS, FILE_COLUMNS, TEXT_COLUMNS))
    if (of_class is None and of_file is None) or (text is None and ATTRIBUTE not in rows):
        fix = f"columns: {CLASS_COLUMNS[0]} or {FILE_COLUMNS[0]}, and {TEXT_COLUMNS[0]} or {ATTRIBUTE}"
        raise DataError("the table of prompts lacks a column", where=table, fix=fix)
    paths = _paths_by_name(images)
    by_class: dict[str, list[str]] = {label: [] for label in classes}
    of_images: dict[str, str] = {}
    use_tokens = False
    for number, row in enumerate(rows.to_dict("records"), start=2):
        named = row[of_file] if of_file else ""
        if named and named not in paths:
            continue  # an image of another split
        label = images[paths[named]] if named else row.get(of_class or "", "")
        if label not in by_class:
            where = f"{table}, line {number}"
            raise DataError(f"the images have no class '{label}'", where=where, fix=did_you_mean(label, by_class))
        template = _template(row, text)
        use_tokens = use_tokens or TOKEN in template
        by_class[label].append(_filled(template, label, classes))
        if named:
            of_images[paths[named]] = by_class[label][-1]
    if not any(by_class.values()):
        what = "the table of prompts names none of the training images"
        raise DataError(what, where=table, fix=f"give their paths in the data folder, such as {next(iter(images))}")
    usual = _from_template(TEMPLATE, classes).by_class
    return Prompts({label: tuple(own) or usual[label] for label, own in by_class.items()}, of_images, use_tokens)


def _template(row: Mapping[Hashable, str], text: str | None) -> str:
    attribute = row.get(ATTRIBUTE, "")
    template = (row[text] if text else "") or TEMPLATE
    return f"{template} with {attribute}" if attribute else template


def _filled(template: str, label: str, classes: Sequence[str]) -> str:
    word = token_of(list(classes).index(label))
    return template.replace(CLASS, label.replace("_", " ")).replace(TOKEN, word)


def _column(rows: pd.DataFrame, names: Iterable[str]) -> str | None:
    return next((name for name in names if name in rows.columns), None)


def _paths_by_name(images: Mapping[str, str]) -> dict[str, str]:
    """Paths by path, and by file name where that is unique."""
    counts = Counter(Path(path).name for path in images)
    return {
        **{Path(path).name: path for path in images if counts[Path(path).name] == 1},
        **{one: one for one in images},
    }
