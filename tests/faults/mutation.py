"""Mutation scores: which small changes to the code of a module do its tests notice?

    pip install mutmut   # its operators make the changes
    python -m pytest -p tests.faults.mutation --mutate diffaug/files/storage.py --scores docs/mutation.json \
        -m "not e2e and not slow" tests/files

mutmut's own runner leaves out decorated functions and imports everything again per mutant. Here the tests run once,
which tells the functions that each of them calls. Then a fork of this process gets the code of one changed function and
runs only the tests that call it, the one that noticed the last change first, then the quickest. Sentences of messages
and values outside of functions are left unchanged.
"""

import ast
import importlib
import json
import os
import resource
import select
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import libcst as cst
import pytest
from _pytest.runner import runtestprotocol
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

CPU_FACTOR, CPU_SECONDS, WALL_SECONDS = 4, 4, 300
SURVIVED, NOTICED, INVALID = 0, 1, 3
BY_FIRST_TEST, BY_LAST_TEST = 10, 255  # exit codes


@dataclass(frozen=True)
class Function:
    """A function or method of a module, with its decorators, by lines from 1."""

    path: tuple[str, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Mutant:
    """A module with one change in one function."""

    function: Function
    line: int
    before: str
    after: str
    source: str


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutate", action="append", default=[], help="a module to change, once or more")
    parser.addoption("--again", action="store_true", help="try only those that survived before, such as with new tests")
    parser.addoption("--at-most", type=float, default=0.3, help="CPU seconds of tests for a mutant, the quickest first")
    parser.addoption("--one-in", type=int, default=1, help="try every change, or one in so many, evenly spread")
    parser.addoption("--scores", type=Path, help="JSON that keeps the scores of all modules tried")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    files = [Path(name) for name in session.config.getoption("mutate")]
    if not files:
        return None
    functions = {str(file.resolve()): list(functions_of(file.read_text())) for file in files}
    callers = first_run(session.items, functions, session.config.getoption("at_most"))
    unique = {item.nodeid: (seconds, item) for found in callers.values() for seconds, item in found}
    no_change = Mutant(functions[str(files[0].resolve())][0], 0, "", "", files[0].read_text())
    assert outcome_of(no_change, files[0], list(unique.values())) == SURVIVED, "tests fail in a fork without any change"
    for file in files:
        score = Score(file, session.config.getoption("scores"), again=session.config.getoption("again"))
        one_in = 1 if score.former else session.config.getoption("one_in")
        mutants = islice(mutants_of(file.read_text(), functions[str(file.resolve())]), 0, None, one_in)
        for mutant in filter(score.is_wanted, mutants):
            score.add(mutant, outcome_of(mutant, file, callers[str(file.resolve()), mutant.function]))
        score.write(one_in)
    return True


def functions_of(source: str) -> Iterator[Function]:
    def walk(body: Sequence[ast.stmt], path: tuple[str, ...]) -> Iterator[Function]:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                yield Function((*path, node.name), first, node.end_lineno or first)
            elif isinstance(node, ast.ClassDef):
                yield from walk(node.body, (*path, node.name))

    return walk(ast.parse(source).body, ())


class _Visitor(MutationVisitor):
    """Changes decorated functions, too, and no sentences."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        prose = isinstance(node, cst.SimpleString | cst.FormattedString | cst.ConcatenatedString)
        return (prose and " " in cst.Module([]).code_for_node(node)) or super()._skip_node_and_children(node)


def mutants_of(source: str, functions: Sequence[Function]) -> Iterator[Mutant]:
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = _Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
    wrapper.visit(visitor)
    places, lines = wrapper.resolve(PositionProvider), source.splitlines(keepends=True)
    for mutation in visitor.mutations:
        place = places[mutation.original_node]
        start = sum(map(len, lines[: place.start.line - 1])) + place.start.column
        end = sum(map(len, lines[: place.end.line - 1])) + place.end.column
        after = wrapper.module.code_for_node(mutation.mutated_node)
        changed = source[:start] + after + source[end:]
        for function in functions:
            if function.first <= place.start.line <= function.last and changed != source:
                yield Mutant(function, place.start.line, source[start:end], after.strip(), changed)


Callers = dict[tuple[str, Function], list[tuple[float, pytest.Item]]]


def first_run(items: Sequence[pytest.Item], functions: dict[str, list[Function]], at_most: float) -> Callers:
    """The quickest tests that pass, with their seconds, in all about `at_most`, by what they call."""
    callers: Callers = defaultdict(list)
    begun = time.monotonic()
    for item, following in zip(items, [*items[1:], None], strict=True):
        called = set[tuple[str, int]]()

        def note(frame: Any, event: str, _: Any, called: set[tuple[str, int]] = called) -> None:
            if frame.f_code.co_filename in functions:
                called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

        threading.settrace(note)
        sys.settrace(note)
        began = time.process_time()
        reports = runtestprotocol(item, log=False, nextitem=following)
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        if any(report.failed for report in reports):
            print(f"left out, since it fails without any change: {item.nodeid}", flush=True)
            continue
        seconds = time.process_time() - began
        for file, of_file in functions.items():
            for function in of_file:
                if any(name == file and function.first <= line <= function.last for name, line in called):
                    callers[file, function].append((seconds, item))
    print(f"\n{len(items)} tests ran in {time.monotonic() - begun:.0f} s", flush=True)
    for key, found in callers.items():
        found.sort(key=lambda one: one[0])
        ends = accumulate(seconds for seconds, _ in found)
        callers[key] = [one for one, end in zip(found, ends, strict=True) if end - one[0] <= at_most]
    return callers


def outcome_of(mutant: Mutant, file: Path, callers: list[tuple[float, pytest.Item]]) -> int:
    """What becomes of the tests in a fork with the changed function; one that takes too long counts as noticed.

    The test that notices the change comes first in `callers` from then on.
    """
    if not callers:
        return SURVIVED
    seconds = int(CPU_SECONDS + CPU_FACTOR * sum(cost for cost, _ in callers))
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        os._exit(_run_changed(mutant, file, [item for _, item in callers]))
    ended = os.pidfd_open(process)
    if not select.select([ended], [], [], WALL_SECONDS)[0]:
        os.kill(process, signal.SIGKILL)
    os.close(ended)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if BY_FIRST_TEST <= code < BY_LAST_TEST:
        callers.insert(0, callers.pop(code - BY_FIRST_TEST))
    return code if code in (SURVIVED, INVALID) else NOTICED


def _run_changed(mutant: Mutant, file: Path, items: Sequence[pytest.Item]) -> int:
    try:
        name = ".".join(file.with_suffix("").parts)
        changed = ModuleType(name)
        changed.__file__ = str(file)
        exec(compile(mutant.source, str(file), "exec"), vars(changed))
        live, other = (_function(module, mutant.function) for module in (importlib.import_module(name), changed))
        live.__code__, live.__defaults__, live.__kwdefaults__ = (
            other.__code__,
            other.__defaults__,
            other.__kwdefaults__,
        )
    except BaseException:
        return INVALID
    try:
        for number, (item, following) in enumerate(zip(items, [*items[1:], None], strict=True)):
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                return min(BY_FIRST_TEST + number, BY_LAST_TEST)
        return SURVIVED
    except BaseException:
        return NOTICED


def _function(module: ModuleType, function: Function) -> FunctionType:
    """The function itself, inside of its decorators."""
    found: Any = module
    for name in function.path:
        found = vars(found)[name]
    while not isinstance(found, FunctionType) or hasattr(found, "__wrapped__"):
        inner = (getattr(found, name, None) for name in ("__wrapped__", "__func__", "fget", "func"))
        found = next(one for one in inner if one is not None)
    return found


class Score:
    """What was found of one module; a reason that someone gave for a survivor is kept."""

    def __init__(self, file: Path, scores: Path | None, *, again: bool) -> None:
        self.file, self.scores = file.as_posix(), scores
        kept = json.loads(scores.read_text()) if scores is not None and scores.is_file() else {}
        self.former = kept.get(self.file) if again else None
        self.reasons = {_key(one): one["why"] for one in kept.get(self.file, {}).get("survivors", [])}
        self.counts, self.survivors = {SURVIVED: 0, NOTICED: 0, INVALID: 0}, list[dict[str, str]]()

    def is_wanted(self, mutant: Mutant) -> bool:
        return self.former is None or _key(_described(mutant)) in self.reasons

    def add(self, mutant: Mutant, outcome: int) -> None:
        self.counts[outcome] += 1
        if outcome == SURVIVED:
            described = _described(mutant)
            self.survivors.append({**described, "why": self.reasons.get(_key(described), "")})
            print(f"survived {self.file}:{mutant.line}: {mutant.before!r} -> {mutant.after!r}", flush=True)

    def write(self, one_in: int) -> None:
        noticed, mutants = self.counts[NOTICED], self.counts[NOTICED] + self.counts[SURVIVED]
        if self.former is not None:
            mutants, one_in = self.former["mutants"], self.former["one_in"]
            noticed = mutants - len(self.survivors)
        print(f"{self.file}: {noticed} of {mutants} noticed, {self.counts[INVALID]} are no code", flush=True)
        if self.scores is not None:
            kept = json.loads(self.scores.read_text()) if self.scores.is_file() else {}
            kept[self.file] = {"mutants": mutants, "one_in": one_in, "noticed": noticed, "survivors": self.survivors}
            self.scores.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def _described(mutant: Mutant) -> dict[str, str]:
    return {"function": ".".join(mutant.function.path), "before": mutant.before, "after": mutant.after}


def _key(described: dict[str, str]) -> tuple[str, ...]:
    return described["function"], described["before"], described["after"]
