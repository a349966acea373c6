"""Which column of a table names the file, its label, its split and its group."""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from diffaug.data.layouts.entries import listed, split_named, words
from diffaug.data.layouts.tables import Table
from diffaug.errors import DataError

FILE_NAMES = (
    *("file_name", "filename", "file", "file_path", "filepath", "image_path", "imagepath", "image_file", "image_name"),
    *("imagename", "image", "images", "image_id", "imageid", "img_path", "img_name"),
    *("img", "img_id", "path", "id_code", "picture", "photo", "fname", "isic_id", "name", "id"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "classes", "class_name", "classname", "class_label", "label_name", "category"),
    *("categories", "category_name", "target", "targets", "diagnosis", "dx", "disease", "species", "breed", "finding"),
    *("finding_labels", "ground_truth", "class_id", "label_id", "class_index", "label_index", "category_id", "level"),
    *("classid", "labelid", "defect", "grade", "y"),
)
SPLIT_NAMES = ("split", "subset", "set", "phase", "partition", "usage", "train_test", "data_set", "dataset_split")
_SPLIT_FLAGS = r"(?:is_?)?(?:train|training|val|valid|validation|test|testing)(?:_?set)?|k?_?folds?(?:_?id)?"
_CLEAR_SPLIT_NAMES = {"split", "partition", "train_test", "dataset_split"}
GROUP_NAMES = (
    *("group", "groups", "group_id", "patient", "patients", "patient_id", "patientid", "subject", "subject_id"),
    *("participant", "participant_id", "person_id", "case", "case_id", "individual", "individual_id", "animal_id"),
    *("specimen", "specimen_id", "slide_id", "video", "video_id", "track_id", "lesion_id"),
)
SAMPLE_ROWS = 200
_INDEX = re.compile(r"|unnamed_\d+|index|id|lp|no|nr|row", re.IGNORECASE)
_AMOUNTS = {"count", "counts", "number", "num", "n", "images", "total", "size"}
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")
_FLAGS = {"0": "0", "1": "1", "0.0": "0", "1.0": "1"}


@dataclass(frozen=True)
class Columns:
    """The columns that say something, by their name in the table."""

    file: str
    label: str | None = None  # None for a table without labels, and where `one_hot` tells them
    one_hot: tuple[str, ...] = ()  # one column per class, with 1 in the column of the label and 0 in the others
    split: str | None = None
    group: str | None = None
    equal: tuple[str, ...] = ()  # label columns that say the same as `label`
    unread: tuple[str, ...] = ()  # columns that may be splits but name none

    @property
    def are_labeled(self) -> bool:
        """Whether the table gives labels."""
        return self.label is not None or bool(self.one_hot)

    def described(self) -> str:
        """For the sentence on how a folder was read."""
        label = f"label '{self.label}'" if self.label else f"one column per class ({listed(self.one_hot)})"
        others = ((kind, getattr(self, kind)) for kind in ("split", "group"))
        unread = [f"'{name}' not read as a split" for name in self.unread]
        return ", ".join(
            [f"file '{self.file}'", label, *(f"{kind} '{name}'" for kind, name in others if name), *unread]
        )


def find_columns(
    table: Table, is_image: Callable[[str], bool], *, label_column: str | None, group_by: str | None
) -> Columns | None:
    """The columns of a table of images, or None if no column names files.

    `is_image` says whether a text names an image of the folder. A table without the column `label_column` has no
    labels; a column `group_by` that is not there is ignored.

    Raises:
        DataError: Several columns may be the label.
    """
    names = {_plain(name): name for name in table.columns if name}
    file = _file_column(table, names, is_image)
    if file is None:
        return None
    split = _split_column(table, names)
    flags = {names[name] for name in names if name in SPLIT_NAMES or re.fullmatch(_SPLIT_FLAGS, name)}
    unread = tuple(name for name in table.columns if name in flags) if split is None else ()
    group = names.get(_plain(group_by or "")) or next((names[name] for name in GROUP_NAMES if name in names), None)
    if label_column is not None:
        label = names.get(_plain(label_column))
        return Columns(file, label, split=split, group=None if group == label else group, unread=unread)
    usual = {names[name] for name in LABEL_NAMES if name in names and not (name == "y" and _has_boxes(names))}
    candidates = [name for name in table.columns if name in usual and name != file]
    if candidates:
        label, equal = _one_label(table, candidates)
        return Columns(file, label, split=split, group=group, equal=equal, unread=unread)
    return Columns(file, None, one_hot_columns(table, {file, split, group}), split, group)


def are_usual(columns: Sequence[str]) -> bool:
    """Whether the names alone tell a table of files and labels."""
    names = set(map(_plain, columns))
    return bool(names & set(FILE_NAMES)) and bool(names & set(LABEL_NAMES))


def one_hot_columns(table: Table, taken: set[str | None]) -> tuple[str, ...]:
    """The columns of zeros and ones, if there are at least two and each other one is an index or `taken`."""
    rest = [name for name in table.columns if name not in taken and not _INDEX.fullmatch(_plain(name))]
    flags = [name for name in rest if set(table.column(name)) <= _FLAGS.keys()]
    return tuple(flags) if table.rows and len(flags) >= 2 and len(flags) == len(rest) else ()


def one_hot_labels(table: Table, columns: Columns) -> list[str]:
    """The label of each row.

    Raises:
        DataError: A row has several labels or none.
    """
    values = {name: table.column(name) for name in columns.one_hot}
    files = table.column(columns.file)
    labels = []
    for row, file in enumerate(files):
        found = [name for name in columns.one_hot if _FLAGS[values[name][row]] == "1"]
        if len(found) != 1:
            has = f"has several labels: {listed(found)}" if found else "has no label: all its columns are 0"
            fix = "keep images of one class each; multi-label data can't be used"
            raise DataError(f"{file} {has}", where=table.place(row), fix=fix)
        labels.append(found[0])
    return labels


def require_single_labels(table: Table, columns: Columns, labels: Sequence[str]) -> None:
    """Raises DataError if some labels are lists of others, such as `Edema|Effusion`."""
    known = set(labels)
    for row, label in enumerate(labels):
        parts = [part.strip() for part in re.split(r"[|,;]", label)]
        if not (len(parts) > 1 and any(part in known for part in parts)):
            parts = label.split()
        is_list = label.startswith(("[", "{"))
        if is_list or (len(parts) > 1 and any(part in known for part in parts) and _all_known(parts, known, label)):
            fix = "keep images of one class each; multi-label data can't be used"
            what = f"the label of {table.column(columns.file)[row]} is a list of labels: {label}"
            raise DataError(what, where=table.place(row), fix=fix)


def _all_known(parts: Sequence[str], known: set[str], label: str) -> bool:
    """Words of a label with spaces must all be labels; after a bar, comma or semicolon one is enough."""
    return bool(re.search(r"[|,;]", label)) or all(part in known for part in parts)


def label_of_folders(table: Table, folders: Set[str]) -> tuple[str, str] | None:
    """The column that names folders of images and the one that gives them a label, as in `patient_id,diagnosis`."""
    values = {name: table.column(name) for name in table.columns if name}
    for name, named in values.items():
        plain = _plain(name)
        known = sum(value.strip("/").rpartition("/")[2] in folders for value in named)
        if known * 2 <= len(named) or plain in LABEL_NAMES:
            continue
        is_id = plain in GROUP_NAMES or bool({"id", "folder", "dir", "directory"} & set(words(name)))
        for other, labels in values.items():
            count = len(set(labels) - {""})
            is_label = _plain(other) in LABEL_NAMES or (
                is_id and count * 2 <= known and _plain(other) not in GROUP_NAMES and not _AMOUNTS & set(words(other))
            )
            if is_label and other != name and 1 < count < len(labels):
                return name, other
    return None


def plain_label(text: str) -> str:
    """The label itself, where it is the only member of a list: `['N']` is `N`."""
    found = re.fullmatch(r"\[\s*(?:'([^']*)'|\"([^\"]*)\"|([\w.+-]+))\s*\]", text)
    return next((part.strip() for part in found.groups() if part), text) if found else text


def _has_boxes(names: Iterable[str]) -> bool:
    """Whether columns give places in the image, so that `y` is one."""
    return any(re.match(r"x|bbox", name) for name in names)


def _plain(name: str) -> str:
    return re.sub(r"[\s\-.:]+", "_", name.strip().casefold())


def _file_column(table: Table, names: dict[str, str], is_image: Callable[[str], bool]) -> str | None:
    """The column whose values are images most often; one with a usual name wins over another one."""
    rows = table.rows[:SAMPLE_ROWS]
    usual = [names[name] for name in FILE_NAMES if name in names]
    hits = {name: sum(is_image(row[number]) for row in rows) for number, name in enumerate(table.columns) if name}
    found = [name for name in usual if hits[name]]
    if found:
        return max(found, key=lambda name: hits[name])  # the first of the best
    best = max(hits, key=lambda name: hits[name], default=None)
    if best is not None and hits[best] * 2 > len(rows) and not all(map(str.isdigit, table.column(best))):
        return best
    return next((name for name in usual if _plain(name) not in ("name", "id")), None)


def _split_column(table: Table, names: dict[str, str]) -> str | None:
    """A column named as the split; one with an ambiguous name, such as `set`, only if some values are splits."""
    for name in SPLIT_NAMES:
        if name in names:
            values = set(table.column(names[name])) - {""}
            if name in _CLEAR_SPLIT_NAMES or any(map(split_named, values)):
                return names[name]
    return None


def _one_label(table: Table, candidates: list[str]) -> tuple[str, tuple[str, ...]]:
    """The label column, of several that say the same the one in words, and the others."""
    if len(candidates) == 1:
        return candidates[0], ()
    values = {name: table.column(name) for name in candidates}
    first = candidates[0]
    for other in candidates[1:]:
        pairs = set(zip(values[first], values[other], strict=True))
        if not len(pairs) == len({one for one, _ in pairs}) == len({two for _, two in pairs}):
            flags = " or ".join(f"--label-column {shlex.quote(name)}" for name in candidates)
            what = f"several columns may be the label: {listed(candidates, shown=len(candidates))}"
            raise DataError(what, where=table.file, fix=f"add {flags}")
    numbers = {name: all(map(_NUMBER.fullmatch, values[name])) for name in candidates}
    best = min(candidates, key=lambda name: numbers[name])
    return best, tuple(name for name in candidates if name != best)
