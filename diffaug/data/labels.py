"""What a label means as a class: one rule for everything that takes or returns labels, see `class_of`."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum
from numbers import Integral
from reprlib import repr as short
from typing import Any, NoReturn

import numpy as np

from diffaug.data.layouts.entries import listed
from diffaug.errors import UsageError, did_you_mean
from diffaug.files import storage

Label = int | str
SHOWN = 12  # classes that a message lists

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)


class UnknownLabelError(UsageError):
    """A label is no class of those in question, or not one class at all."""


def class_of(
    label: Any, classes: Sequence[str], class_to_idx: Mapping[str, int] | None = None, *, where: str | None = None
) -> str:
    """The class, one of `classes`, that a label means.

    **A text is a class name. An integer is an index into the classes of the dataset that the label comes from.**

    - A name may be written in another Unicode form, or be the name of the class's folder (`storage.safe_names`).
    - With `class_to_idx`, the numbering of that dataset, an integer means the class that has this index there.
    - A dataset without class names calls its classes by their numbers. So where class names are numbers, an integer
      means the class whose name is this number, in whatever order the classes are: 3 is the class "3".
    - Where no name is a number, as in a folder of `cat/` and `dog/`, an integer is a position in `classes`.

    Args:
        label: An index, a name, or what says one of them, see `plain_label`.
        classes: Class names, in the order of `sorted_classes`.
        class_to_idx: Class name to label of a dataset that has names.
        where: What an error names as its place.

    Raises:
        UnknownLabelError: There is no such class, or the label is not one class.
        UsageError: Two class names are this number.
    """
    known = list(classes)
    try:
        plain = plain_label(label)
    except UnknownLabelError as error:
        fix = f"{error.fix}; classes: {listed(known, shown=SHOWN)}"
        raise UnknownLabelError(error.what, where=where, fix=fix) from error
    if isinstance(label, bool | np.bool_) and len(class_to_idx or known) > 2:
        what = f"label {label} can't mean one of {len(known)} classes: {listed(known, shown=SHOWN)}"
        raise UnknownLabelError(what, where=where, fix="give a class index or name")
    if isinstance(plain, str):
        found = match_name(plain, known)
    elif class_to_idx is not None:
        name = next((name for name, index in class_to_idx.items() if index == plain), None)
        found = None if name is None else match_name(name, known)
    elif any(map(_as_number, known)):
        found = _by_number(plain, known, where)
    else:
        found = known[plain] if 0 <= plain < len(known) else None
    if found is None:
        raise _unknown(plain, known, class_to_idx, where)
    return found


def plain_label(label: Any) -> Label:
    """A label as an index or a name.

    Takes what says one class without doubt: an integer, also as a NumPy or torch scalar or as a bool; a text; a float
    that is a whole number; an array, a tensor or a list that holds one of these, or that is one-hot.

    Raises:
        UnknownLabelError: Anything else: several classes, probabilities, a mapping, bytes, None, NaN, a fraction.
    """
    if isinstance(label, Enum):
        label = label.value
    if isinstance(label, str) and label:
        return str(label)
    if isinstance(label, Integral):
        if not -(2**63) <= int(label) < 2**63:
            raise UnknownLabelError("a label is too large for a class index", fix="count the classes from 0")
        return int(label)
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if hasattr(label, "tolist") and not isinstance(label, list | tuple):  # a NumPy or torch array or scalar
        listed = label.tolist()
        return _refuse(label) if isinstance(listed, type(label)) else plain_label(listed)
    if isinstance(label, list) and len(label) == 1:
        return plain_label(label[0])
    return _hot_position(label) if isinstance(label, list) else _refuse(label)


def is_integer(label: Any) -> bool:
    """Whether a label says an index, and no name."""
    try:
        return isinstance(plain_label(label), int)
    except UnknownLabelError:
        return False


def match_name(name: str, classes: Sequence[str]) -> str | None:
    """The class of this name, in whatever Unicode form, or whose folder has this name; None if there is none."""
    if name in classes:
        return name
    normal = unicodedata.normalize("NFC", name)
    same = [known for known in classes if unicodedata.normalize("NFC", known) == normal]
    if not same:
        folder = storage.safe_names([name])[name]
        same = [known for known in classes if known == folder or storage.safe_names([known])[known] == name]
    return same[0] if len(same) == 1 else None


def integers_are_clear(classes: Sequence[str]) -> bool:
    """Whether an integer means one class, whichever dataset it comes from.

    It does if the classes are 0, 1, 2, ... and torchvision's `ImageFolder`, which sorts their names as text, gives
    each the index that is its name.
    """
    return all(name == str(index) for index, name in enumerate(sorted(classes)))


def _hot_position(values: list[Any]) -> int:
    """The position of the only 1 among zeros."""
    are_numbers = all(isinstance(value, int | float) for value in values)
    if are_numbers and all(value in (0, 1) for value in values) and sum(values) == 1:
        return values.index(1)
    _refuse(values)


def _refuse(label: Any) -> NoReturn:
    kind, fix = "", "give one class index or name per image"
    if label is None or label == "" or (isinstance(label, float) and math.isnan(label)):
        kind, fix = "it marks a missing label", "leave unlabeled images out, or give them a class"
    elif isinstance(label, float):
        kind = "it is no whole number, as the target of a regression"
    elif isinstance(label, bytes):
        kind, fix = "it is bytes, not text", "decode it: label.decode()"
    elif isinstance(label, Mapping):
        kind = "it is a mapping, as of object detection"
    elif isinstance(label, tuple):
        kind = "it is a tuple of several targets"
    elif isinstance(label, list):
        is_multi = all(isinstance(value, int | float) and value in (0, 1) for value in label)
        kind = "it names several classes or none" if is_multi else "it holds several values, as probabilities do"
    else:
        kind = f"it is of type {type(label).__name__}"
    raise UnknownLabelError(f"label {short(label)} is not one class: {kind}", fix=fix)


def _as_number(name: str) -> Decimal | None:
    return Decimal(name) if _NUMBER.fullmatch(name) else None


def _by_number(number: int, classes: Sequence[str], where: str | None) -> str | None:
    """The class whose name is this number: spelled like it, or else the only one of this value."""
    if str(number) in classes:
        return str(number)
    same = [name for name in classes if _as_number(name) == number]
    if len(same) > 1:
        what = f"label {number} means either of the classes {' and '.join(map(repr, same))}"
        raise UsageError(what, where=where, fix="give the name of the class as text")
    return same[0] if same else None


def _unknown(
    label: Label, classes: Sequence[str], class_to_idx: Mapping[str, int] | None, where: str | None
) -> UnknownLabelError:
    what = f"there is no class {label!r}; classes: {listed(classes, shown=SHOWN)}"
    if class_to_idx is not None:
        pairs = (f"{index} {name!r}" for name, index in class_to_idx.items())
        what += f"; their labels: {listed(list(pairs), shown=SHOWN)}"
    if isinstance(label, str):
        fix = did_you_mean(label, classes)
    elif label == -1:
        fix = "-1 usually marks unlabeled images: leave them out"
    else:
        fix = "give a class name, or an index of the dataset that the label comes from"
    return UnknownLabelError(what, where=where, fix=fix)
