"""Groups in file names: images of one patient, part or original, which must stay on one side of a split."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffaug.data.layouts.entries import Entry, listed, tally
from diffaug.errors import UsageError

MIN_GROUPS = 3
SAMPLED = 200  # paths that a rule is tried on before all are
MIN_MATCHED = 0.8  # images whose path a rule must match, as a fraction
MAX_OF_CLASS = 1 / 3  # images of a class in one group; a rule of larger groups leaves no choice to a split
CLASS_TO_JUDGE = 12  # smaller classes may well be one group
MIN_SHARED = 0.5  # images that share their group, as a fraction
MIN_DERIVED = 0.02  # images named as derived from another one, as a fraction
MIN_MIXED_FOLDERS = 6  # folders that recur in several classes; fewer may be views or folds, such as 40X and 100X
MIN_PURE = 0.9  # groups of one class, as a fraction; below it a name is read together with its folder

_PEOPLE = (  # and what is one of its kind in all classes
    *("patient", "subject", "participant", "person", "pat", "subj", "sub", "case", "study", "series", "lesion"),
    *("specimen", "slide", "animal"),
)
_OBJECTS = (  # often numbered from 1 in each class
    *("video", "vid", "clip", "seq", "sequence", "scene", "track", "plant", "tree", "part", "object", "obj", "item"),
    *("product", "wafer", "lot", "batch", "plate", "well", "sample", "coil", "id"),
    *("camera", "cam", "site", "session", "visit", "scan"),
)
_VIEWS = "slice|frame|view|cam|camera|tile|patch|page|shot|pose|angle|exposure|exp|zoom|side|img|image|part|copy"
_VIEWS += "|field|fov|ch|(?-i:[cfstwz])"  # of microscopes: channel, field, site, time, wavelength, depth
_SIDES = "left|right|[lr]|od|os|cc|mlo|frontal|lateral|front|back|top|bottom"
_CHANGES = "aug|rot|flip|hflip|vflip|mirror|blur|nois|bright|dark|contrast|shift|shear|crop|scal|gamma|orig"
# Each form takes a text in one way only, since otherwise a search could take forever.
_FORMS = (  # what tools append to the name of the original
    *(rf"[_\-. ]+{word}[a-z]*(?:[_\-. ]*\d+(?:[_\-. ]+\d+)?)?" for word in _CHANGES.split("|")),
    *(rf"[_\-. ]+{word}[_\-. ]*\d+" for word in _VIEWS.split("|")),
    *(r"[_\-. ]+copy", r"[_\-. ]*\(\d+\)", r"[_\-. ]+(?:new)?\d+deg[a-z]*", rf"[_\-. ]+(?:{_SIDES})"),
)
_START = r"(?<![^/])"  # of a name: searching from every letter would take the square of the time
_ROBOFLOW = rf"{_START}([^/]+)_(?:jpe?g|png|bmp|webp|tiff?)\.rf\.[0-9a-zA-Z]+\.[^./]+$"
_FOLDER = r"[^/]+/([^/]+)/[^/]+$"
_FOLDER_ABOVE = r"([^/]+)/[^/]+/[^/]+$"
_NUMBERED = rf"{_START}([^/]*\d[^/]*?)[_\-. ]+\d+\.[^./]+$"
TRIAL_SECONDS = 20
_RISKY = re.compile(r"\)[*+{]|(?:[*+{].*){4}", re.DOTALL)  # a repeated group, or many repeats
_TRIAL = """
import json, re, sys
expression, paths = json.load(sys.stdin.buffer)
search = re.compile(expression).search
for path in paths:
    search(path)
"""


@dataclass(frozen=True)
class GroupRule:
    """A proposal for `data.group_by`."""

    pattern: str  # regular expression whose capture is the group
    groups: int  # groups that it finds
    evidence: str  # one sentence with examples


@dataclass(frozen=True)
class Confirmation:
    """How often images that show nearly the same picture share a group."""

    pairs: int  # pairs of images that show nearly the same picture
    inside: int  # those whose images share a group
    expected: float  # how many would share one by chance

    @property
    def is_strong(self) -> bool:
        """Whether chance explains it with a probability under 1 in 1,000."""
        return self.pairs > 0 and self._chance() < 0.001

    def _chance(self) -> float:
        from scipy.stats import binomtest  # takes a fifth of the time that opening a catalog does

        rate = min(1.0, self.expected / self.pairs)
        return float(binomtest(self.inside, self.pairs, rate, alternative="greater").pvalue)


def with_groups(entries: Sequence[Entry], group_by: str | None) -> tuple[list[Entry], list[str]]:
    """The entries with the group that a regular expression finds in their path, and remarks.

    The captures of the expression, or else the whole match, name the group. Groups that a table gives win.

    Raises:
        UsageError: The expression is invalid, takes forever, or matches no path.
    """
    if group_by is None or any(entry.group for entry in entries):
        return list(entries), []
    try:
        pattern = re.compile(group_by)
    except (re.error, OverflowError, RecursionError) as error:
        fix = "give one such as 'patient(\\d+)', in quotes"
        raise UsageError(f"--group-by is no regular expression: {error}", where=group_by, fix=fix) from error
    _require_quick(group_by, entries)
    groups = [_group(pattern, entry.path) for entry in entries]
    if not any(groups):
        what = f"--group-by matches no path; paths are such as {listed([entry.path for entry in entries])}"
        raise UsageError(what, where=group_by, fix="give an expression that finds the group in such a path")
    unmatched = [entry.path for entry, group in zip(entries, groups, strict=True) if not group]
    grouped = [replace(entry, group=group) for entry, group in zip(entries, groups, strict=True)]
    return grouped, tally("images whose path --group-by does not match, each a group of its own", unmatched)


def _require_quick(group_by: str, entries: Sequence[Entry]) -> None:
    """Tries an expression that can take years, as `(a+)+$` does, in a process that can be ended."""
    if not _RISKY.search(group_by) or not sys.executable:
        return
    paths = json.dumps([group_by, [entry.path for entry in entries]])
    command = [sys.executable, "-I", "-S", "-c", _TRIAL]
    try:
        subprocess.run(command, input=paths.encode(), timeout=TRIAL_SECONDS, check=False, capture_output=True)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        fix = "use few repeats, and repeat no group that repeats something itself: a+ instead of (a+)+"
        what = f"--group-by did not get through the paths in {TRIAL_SECONDS} s"
        raise UsageError(what, where=group_by, fix=fix) from error


def groups_of(paths: Iterable[str], pattern: str) -> list[str]:
    """The group of each path by the pattern of a rule; empty where it does not match."""
    compiled = re.compile(pattern)
    return [_group(compiled, path) or "" for path in paths]


def propose_group_rule(entries: Sequence[Entry]) -> GroupRule | None:
    """The rule that best explains the file names of labeled images as groups of several images each, if any does."""
    labeled = [entry for entry in entries if entry.label]
    paths = [entry.path for entry in labeled]
    for candidate in _candidates(paths):
        for pattern in (candidate.pattern, *_with_folder(candidate)):
            groups = [_group(re.compile(pattern), path) for path in paths]
            if _is_plausible(groups, labeled, candidate, with_folder=pattern != candidate.pattern):
                return _rule(pattern, groups, labeled)
    return None


def confirmation(groups: Sequence[str], pictures: NDArray[np.int64]) -> Confirmation:
    """Whether near-duplicates confirm groups.

    `pictures` says for each image at which position the first one is that shows nearly the same, int64 (N,).
    """
    names = [name or f"/{number}" for number, name in enumerate(groups)]  # no group holds a slash first
    alike = Counter(pictures.tolist())
    both = Counter(zip(names, pictures.tolist(), strict=True))
    pairs = _pairs(alike)
    every = len(names) * (len(names) - 1) / 2
    return Confirmation(pairs, _pairs(both), pairs * _pairs(Counter(names)) / max(every, 1))


class _Candidate(NamedTuple):
    pattern: str
    min_shared: float = MIN_SHARED
    can_mix: bool = False  # whether images of several classes may be one group
    must_recur: bool = False  # whether several images of a class must be one group; else numbers may start anew in each
    min_mixed: int = MIN_GROUPS  # number of groups from which on they may mix classes


def _candidates(paths: Sequence[str]) -> list[_Candidate]:
    """Rules that may fit, the most telling first."""
    sample = paths[:: max(1, len(paths) // SAMPLED)]
    folders = [_Candidate(one, can_mix=True, min_mixed=MIN_MIXED_FOLDERS) for one in (_FOLDER, _FOLDER_ABOVE)]
    numbered = [*folders, _Candidate(_NUMBERED)]
    return [_Candidate(_ROBOFLOW, MIN_DERIVED), *_objects(sample), *_derived(paths), *numbered]


def _objects(sample: Sequence[str]) -> list[_Candidate]:
    """Rules that find a numbered object, first with what stands before it in the name, as `run_video5`."""
    found = []
    for name in (*_PEOPLE, *_OBJECTS):
        pattern = rf"(?i)(?<![a-z])({name}[_\-. ]?\d+)"
        if sum(bool(re.search(pattern, path)) for path in sample) >= MIN_MATCHED * len(sample):
            whole = rf"(?i){_START}([^/]*(?<![a-z]){name}[_\-. ]?\d+)[^/]*$"
            is_person = name in _PEOPLE
            anywhere = _Candidate(pattern, can_mix=True, must_recur=not is_person)
            found += [_Candidate(whole, can_mix=is_person), anywhere]
    return found


def _derived(paths: Sequence[str]) -> list[_Candidate]:
    """A rule that takes what tools append off the names, of the forms that occur."""
    names = "\n".join(path.rpartition("/")[2] for path in paths)
    forms = "|".join(form for form in _FORMS if re.search(rf"(?i)\w{form}(?=[_\-. (])", names))
    derived = re.compile(rf"(?i){_START}[^/]+?(?:{forms})+\.[^./]+$")
    count = sum(bool(derived.search(path)) for path in paths) if forms else 0
    is_used = count > 0 and count >= MIN_DERIVED * len(paths)
    return [_Candidate(rf"(?i){_START}([^/]+?)(?:{forms})*\.[^./]+$", MIN_DERIVED)] if is_used else []


def _with_folder(candidate: _Candidate) -> list[str]:
    """The rule that also takes the folder into the group, for names that are numbered per class."""
    if candidate.can_mix or "([^/]" not in candidate.pattern:
        return []
    return [candidate.pattern.replace("([^/]", "([^/]+/[^/]", 1)]


def _group(pattern: re.Pattern[str], path: str) -> str | None:
    match = pattern.search(path)
    if match is None:
        return None
    return "/".join(part for part in match.groups() if part) or match.group()


def _is_plausible(
    groups: Sequence[str | None], entries: Sequence[Entry], candidate: _Candidate, *, with_folder: bool
) -> bool:
    """Whether the groups are several, of several images, and small beside their classes."""
    sizes = Counter(group for group in groups if group)
    cells = Counter((entry.label, group) for group, entry in zip(groups, entries, strict=True) if group)
    shared = sum(size for size in (cells if candidate.must_recur else sizes).values() if size > 1)
    least = candidate.min_shared * len(entries)
    if len(sizes) < MIN_GROUPS or sizes.total() < MIN_MATCHED * len(entries) or shared < least:
        return False
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for group, entry in zip(groups, entries, strict=True):
        if group and sizes[group] > 1:
            labels[entry.label][group] += 1
    totals = Counter(entry.label for entry in entries)
    if all(max(counts.values()) == totals[label] for label, counts in labels.items()):  # the groups are the classes
        return False
    if any(
        max(counts.values()) > MAX_OF_CLASS * totals[label]
        for label, counts in labels.items()
        if totals[label] >= CLASS_TO_JUDGE
    ):
        return False
    mixed = Counter(group for counts in labels.values() for group in counts)
    pure = sum(count == 1 for count in mixed.values())
    can_mix = with_folder or (candidate.can_mix and len(sizes) >= candidate.min_mixed)
    return can_mix or pure >= MIN_PURE * len(mixed)


def _rule(pattern: str, groups: Sequence[str | None], entries: Sequence[Entry]) -> GroupRule:
    members: defaultdict[str, list[str]] = defaultdict(list)
    for group, entry in zip(groups, entries, strict=True):
        if group:
            members[group].append(entry.path)
    name, paths = max(members.items(), key=lambda item: (len(item[1]), item[0]))
    sizes = [len(paths) for paths in members.values()]
    evidence = (
        f"{len(members)} groups of {min(sizes)} to {max(sizes)} images, such as '{name}': {listed(sorted(paths))}"
    )
    return GroupRule(pattern, len(members), evidence)


def _pairs(counts: Mapping[Any, int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts.values())
