"""Every file of a finished study is damaged in every way: what is made of it is the same, or an error that helps."""

import io
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffaug.cli import main
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import DamagedError, UsageError
from diffaug.evaluation.report.pool import PoolOverview
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.files import storage
from diffaug.runtime.seeding import numpy_generator
from diffaug.stages.job import settings_text
from diffaug.study import Study, open_study
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.pool import Pool
from diffaug.tracking.delivery import logged_links
from diffaug.tracking.events import read_events

Damage = Callable[[Path, np.random.Generator], None]


def flip(path: Path, random: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


def cut(path: Path, random: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: int(random.integers(path.stat().st_size))])


def empty(path: Path, random: np.random.Generator) -> None:
    path.write_bytes(b"")


def remove(path: Path, random: np.random.Generator) -> None:
    path.unlink()


def replace_by_folder(path: Path, random: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: tuple[Damage, ...] = (flip, cut, empty, remove, replace_by_folder)


def catalog_of(study: Study) -> object:
    catalog = Catalog.load(study.catalog)
    texts = catalog.table.astype(str).to_csv(index=False), catalog.fingerprint, catalog.classes, catalog.image_size
    return storage.sha256_bytes(np.ascontiguousarray(catalog.pixels).tobytes()), texts


def generator_of(study: Study) -> object:
    generator = Generator.load(study.generator)
    rows = generator.rows()
    return generator.weights_sha256, generator.classes, None if rows is None else rows.to_csv()


def pool_of(study: Study) -> object:
    pool = Pool.open(study.path)
    rejected = None if pool.rejected is None else pool.rejected.to_csv()
    said = (pool.summaries, pool.power, pool.publication_check)
    return storage.sha256_bytes(pool.images().pixels.tobytes()), pool.manifest.to_csv(), rejected, said


def evaluation_of(study: Study) -> object:
    metadata = storage.committed_metadata(study.evaluation)
    return metadata, EvaluationResult.load(study.evaluation / "result.json")


def chunks_of(study: Study) -> object:
    found = []
    for store in sorted(path for path in study.chunks.iterdir() if path.is_dir()):
        for folder in sorted(store.iterdir()):
            label = int(folder.name)
            found += [ChunkStore(store).read(label, one).to_csv() for one in sorted(ChunkStore(store).finished(label))]
    return found


READERS: dict[str, Callable[[Study], object]] = {
    "catalog": catalog_of,
    "generator": generator_of,
    "pool": pool_of,
    "pool-report": lambda study: PoolOverview.read(Pool.open(study.pool), study.pool_report).quality,
    "evaluation": evaluation_of,
    "filters": lambda study: storage.committed_metadata(study.filters),
    "chunks": chunks_of,
    "journal.jsonl": lambda study: read_events(study.journal),
    "tracking": logged_links,
    "config.yaml": lambda study: settings_text(study.config_file),
    "study.json": lambda study: open_study(study.path).record,
}
MAY_BE_GONE = (storage.DONE, "BEGUN.json", "journal.jsonl", ".chunk", "tracking/mlflow.json")
"""What may be removed: a stage is then unfinished, a journal begins anew, a chunk or a record is made again."""


UNREAD = ("chunks/targets", "chunks/strengths")  # of a finished pool


def files_of(study: Path) -> list[str]:
    names = (path.relative_to(study).as_posix() for path in study.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith((".verified.json", ".lock")))


def read(study: Path, part: str) -> object:
    return READERS[part](Study(study))


@pytest.mark.e2e
def test_a_damaged_file_is_found_by_whoever_reads_it(study: Path) -> None:
    random = numpy_generator(0, "damage")
    names = [name for name in files_of(study) if name.split("/")[0] in READERS and not name.startswith(UNREAD)]
    whole = {part: read(study, part) for part in READERS}
    for number, name in enumerate(random.permutation(names)[:100].tolist()):
        damage, path, part = DAMAGES[number % len(DAMAGES)], study / name, name.split("/")[0]
        content = path.read_bytes()
        damage(path, random)
        try:
            found = read(study, part)
        except DamagedError as error:
            assert error.where and error.fix, name
        except UsageError:
            assert name.endswith(MAY_BE_GONE), (name, damage.__name__)
        else:
            unfinished = damage is remove and name.endswith(MAY_BE_GONE)
            cut_line = name == "journal.jsonl" and damage in (cut, empty)
            assert found == whole[part] or unfinished or cut_line, (name, damage.__name__)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(content)


def run(command: list[str]) -> tuple[int, dict[str, object]]:
    with redirect_stdout(io.StringIO()) as printed:
        try:
            main([*command, "--quiet", "--json"])
        except SystemExit as ended:
            return int(ended.code or 0), json.loads(printed.getvalue())
    return 0, json.loads(printed.getvalue())


def follow(fix: str) -> None:
    """Runs the command that a remedy names, as it is printed."""
    text = fix[fix.index("diffaug ") :] if "diffaug " in fix else fix[fix.index("rm ") :]
    words = shlex.split(text)
    if words[0] == "rm":
        subprocess.run(words, check=True)
    else:
        code, answer = run(words[1:])
        assert code == 0, (fix, answer)


def results(study: Path) -> dict[str, bytes]:
    names = ["report.html", "evaluation/result.json", "pool/manifest.parquet", "catalog/table.parquet"]
    return {name: (study / name).read_bytes() for name in (*names, "generator/model.safetensors")}


USED_BY = {"generator": ["generate"], "filters": ["generate", "--more", "middle=3"]}
USED_BY["chunks"] = USED_BY["filters"]


@pytest.mark.slow
@pytest.mark.e2e
def test_every_damage_of_every_file_leaves_the_results_or_a_remedy_that_works(study: Path, tmp_path: Path) -> None:
    random, pristine = numpy_generator(0, "walk"), tmp_path / "pristine"
    assert run(["report", str(study)])[0] == 0
    shutil.copytree(study, pristine)
    wanted: dict[tuple[str, ...], dict[str, bytes]] = {}
    for command in (["report"], *USED_BY.values()):
        assert run([command[0], str(study), *command[1:]])[0] == 0
        wanted[tuple(command)] = results(study)
        shutil.rmtree(study)
        shutil.copytree(pristine, study)
    failures = []
    for number, name in enumerate(files_of(study)):
        alike = name.endswith((".png", ".npy", ".chunk")) or "/trials/" in name
        for damage in (DAMAGES[number % len(DAMAGES)],) if alike else DAMAGES:
            if (study / name).stat().st_size == 0 and damage in (flip, cut):
                continue
            damage(study / name, random)
            command = USED_BY.get(name.split("/")[0], ["report"])
            typed = [command[0], str(study), *command[1:]]
            try:
                code, answer = run(typed)
                for _ in range(3):  # a remedy may show that something else is to be made, too
                    if code == 0:
                        break
                    assert code == 3 or (code == 2 and name.endswith((storage.DONE, "study.json"))), answer
                    follow(str(answer["fix"]))
                    code, answer = run(typed)  # which goes on with an extension that was begun
                assert code == 0, answer
                again = results(study)
                other = [key for key, content in wanted[tuple(command)].items() if again[key] != content]
                assert not other, other
            except Exception as error:
                failures.append(f"{name}, {damage.__name__}: {type(error).__name__} {str(error)[:300]}")
            shutil.rmtree(study)
            shutil.copytree(pristine, study)
    assert not failures, "\n".join(failures)


HOSTILE = (None, [], {}, "x", "", -1, 0, 1.5, 10**6, 10**18, 1e308, True, [[]], {"x": {}}, "a" * 10_000)


def mutated(content: object, random: np.random.Generator) -> object:
    """JSON in which one value is another one, or one entry is gone."""
    if isinstance(content, dict | list) and content and random.random() < 0.8:
        changed = content.copy()
        key = (
            list(content)[random.integers(len(content))] if isinstance(content, dict) else random.integers(len(content))
        )
        if random.random() < 0.15:
            del changed[key]
        else:
            changed[key] = mutated(content[key], random)
        return changed
    return HOSTILE[random.integers(len(HOSTILE))]


def mutate_table(path: Path, random: np.random.Generator) -> None:
    """A table in which one column is gone, or holds other values."""
    table = pd.read_parquet(path)
    column = table.columns[random.integers(len(table.columns))]
    value = (None, "x", -1, 10**12, float("nan"), True, b"x")[random.integers(7)]
    other = table.drop(columns=column) if random.random() < 0.3 else table.assign(**{column: [value] * len(table)})
    storage.write_parquet(path, other.head(int(random.integers(len(table) + 1))) if random.random() < 0.3 else other)


def mutate(study: Path, name: str, random: np.random.Generator) -> None:
    """Changes a file into a valid one of another shape, and signs its folder anew."""
    path, folder = study / name, study / name.split("/", maxsplit=1)[0]
    if name.endswith(".parquet"):
        mutate_table(path, random)
    elif name.endswith((storage.DONE, "plan.json", "BEGUN.json")):
        content = json.loads(path.read_bytes())
        content.pop("fingerprint")
        part = "metadata" if name.endswith(storage.DONE) else "record"
        content[part] = mutated(content[part], random)
        signed = content if part == "metadata" else content[part]
        storage.write_json(path, {**content, "fingerprint": storage.fingerprint(storage.finite(signed))})
    else:
        storage.write_json(path, mutated(json.loads(path.read_bytes()), random))
    if not name.endswith(storage.DONE):
        storage.commit_directory(folder, storage.recorded_metadata(folder) or {})


def records_of(study: Path) -> list[str]:
    names = files_of(study)
    return [
        name for name in names if "/" in name and name.endswith((".json", ".parquet")) and not name.startswith(UNREAD)
    ]


@pytest.mark.e2e
@pytest.mark.parametrize("times", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_record_of_another_shape_that_is_signed_anew_is_refused_or_read(study: Path, times: int, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    random = numpy_generator(times, "hostile")
    for name in [name for name in records_of(study) if "/trials/" not in name] * times:
        path, done = study / name, study / name.split("/")[0] / storage.DONE
        before = path.read_bytes(), done.read_bytes()
        mutate(study, name, random)
        try:
            read(study, name.split("/")[0])
        except (DamagedError, UsageError) as error:
            assert error.where and error.fix, (name, error)
        except Exception as error:
            raise AssertionError(f"{name}: {path.read_text(errors='replace')[:500]}") from error
        path.write_bytes(before[0])
        done.write_bytes(before[1])


@pytest.mark.slow
@pytest.mark.e2e
def test_commands_end_in_one_line_whatever_a_record_says(study: Path) -> None:
    random, failures = numpy_generator(1, "hostile"), []
    for name in [name for name in records_of(study) if "/trials/" not in name] * 10:
        path, done = study / name, study / name.split("/")[0] / storage.DONE
        before = path.read_bytes(), done.read_bytes()
        mutate(study, name, random)
        for command in (["report"], ["generate"]):
            try:
                code, answer = run([*command, str(study)])
                assert code in (0, 2, 3), answer
            except Exception as error:
                failures.append(f"{name}, {command}: {error!r} {path.read_text(errors='replace')[:300]}")
        path.write_bytes(before[0])
        done.write_bytes(before[1])
    assert not failures, "\n".join(failures)
