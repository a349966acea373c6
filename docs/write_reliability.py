"""Writes docs/reliability.md from the figures of the fault suite.

Run `python -m pytest tests/faults -n 2 --dist worksteal --figures docs/reliability.json`, then
`python docs/write_reliability.py`. How docs/mutation.json is made stands in tests/faults/mutation.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TEXT = """# Reliability

This page is written by `python docs/write_reliability.py` from the figures of the fault suite, which is not part of the
default tests:

```bash
python -m pytest tests/faults -n 2 --dist worksteal --figures docs/reliability.json
python -m pytest tests/faults --share 0.1                                            # every tenth try
```

It needs Linux and a C compiler.{time}

## What was tried

{summary}

*struck* counts the tries in which the fault made the command end otherwise than with exit code 0.{share}

- **kills**: `SIGKILL` before the N-th change of a file, or half-way through it. The same command is
  killed again while it recovers. The third time it ends with exit code 0 and the same bytes.
- **failed operations**: the N-th change fails: with ENOSPC or EROFS from then on, with EIO, EACCES or ESTALE once. The
  command ends with exit code 3 and without a traceback, or with 0. The same command fails again while it recovers. The
  third time it ends as above.
- **power cuts**: all operations are recorded and replayed up to one of them. What was not synced is lost: all of it,
  file contents only, or a part drawn at random. The same command then ends as above.
- **flips**: one bit of one file of a finished stage. A command that uses the stage gives the same results, or an error
  whose remedy works.
- **damaged files**: a file is cut, emptied or removed; as above.
- **hostile records**: JSON records with a value of another kind, signed as diffaug signs, and settings of that kind.
  Exit code 0, 2 or 3, and no traceback.
- **processes at once**: two to four processes on one study, up to two of them killed. In the end, the same bytes.
- **leaping clocks**: the wall clock leaps at every look, by up to 1, 16 or 81 days. The same bytes.
- **limits**: few open files or processes, little memory, small files, a small `/dev/shm` for parallel trainings. Exit
  code 3 or 0; then as after a kill.
- **outages of MLflow**: its server is killed while it receives a study. After the next `sync` everything is there once.

Points are drawn one from each of equally long parts of all possible ones, always the same.

{rows}

## What is compared

All files of the study, of an export and of further generators, byte for byte. Left out are locks; the journal, which
holds times and, after an interruption, one more run; the record of times of the image files; numbers of seconds;
and sizes and hashes in `DONE.json` where they cover such numbers. Of MLflow's database: runs with their state, metrics,
parameters and the names of tags.

## Which changes to the code the tests notice

Each mutant is one small change to one function: an operator, a constant, an argument, a condition. It is noticed if a
test fails. Tests that train networks or start processes are not used, so that more may be noticed than stands here.
Sentences of messages and values outside of functions are left unchanged. Of large modules only one change in so many
was tried, evenly spread. Modules that are not in the table were not tried. The figures are those of
`tests/faults/mutation.py`, which says how to make them.

{mutants}

## What this does not prove

- The job is tiny: images of 8 px, a network of 16 channels, trained for a few steps in one process on a CPU. Pretrained
  pipelines, cascades, latents, masks, encoders and several GPUs have tests of their own, but no faults are made there.
- The charts of reports are left empty, which makes the suite shorter and touches no file.
- Operations are counted where programs call the C library. Writes through memory maps and calls made past the library
  are not seen.
- A power cut is a model: a synced file or folder is kept, all else may be lost. A disk that lies about what it has
  synced can lose more. SQLite's own promises are not tested.
- Network file systems are not tried; ESTALE only stands for one.
- Damage that also repairs the hashes is refused only where it breaks the shape of a record. The hashes protect from
  accidents, not from someone who can write to the study.
- A sample that finds nothing bounds the share of failures: none in 500 means less than 0.6 % at 95 % confidence, for
  faults of the kinds above.
"""

NO_SCORES = "No module was tried yet."
NO_FIGURES = {"summary": "No figures are kept yet; the commands above make them.", "rows": "", "share": "", "time": ""}


def write() -> None:
    """Writes the page; without figures it says that there are none."""
    figures = FOLDER / "reliability.json"
    tried = _tried(json.loads(figures.read_text(encoding="utf-8"))) if figures.is_file() else NO_FIGURES
    scores = FOLDER / "mutation.json"
    mutants = _mutants(json.loads(scores.read_text(encoding="utf-8"))) if scores.is_file() else NO_SCORES
    (FOLDER / "reliability.md").write_text(TEXT.format(**tried, mutants=mutants), encoding="utf-8")


def _tried(content: dict[str, Any]) -> dict[str, str]:
    kinds = [(kind, *numbers.values()) for kind, numbers in content["summary"].items()]
    rows = [
        (row["kind"], row["subject"], row["possible"] or "", row["tries"], len(row["failures"]))
        for row in content["rows"]
    ]
    machine = content["machine"]
    return {
        "summary": "| kind | tries | struck | failed |\n|---|---|---|---|\n" + _table(kinds),
        "rows": "| kind | of | possible | tried | failed |\n|---|---|---|---|---|\n" + _table(rows),
        "time": f" The first command took {machine['minutes']:.0f} minutes on {machine['cores']} cores.",
        "share": f" {machine['share']:.0%} of all tries were made, on {machine['system']}, Python {machine['python']}.",
    }


def _mutants(scores: dict[str, Any]) -> str:
    """The table of the modules tried, and each reason why survivors may live, with the functions it is given for."""
    rows, reasons = list[tuple[object, ...]](), dict[str, dict[str, int]]()
    for file, score in scores.items():
        unexplained = sum(not one["why"] for one in score["survivors"])
        share = score["noticed"] / score["mutants"]
        tried = "all" if score["one_in"] == 1 else f"one in {score['one_in']}"
        rows.append((f"`{file}`", tried, score["mutants"], score["noticed"], f"{share:.0%}", unexplained))
        for one in score["survivors"]:
            if one["why"]:
                places = reasons.setdefault(one["why"], {})
                place = f"{Path(file).stem}.{one['function']}"
                places[place] = places.get(place, 0) + 1
    mutants, noticed = (sum(score[name] for score in scores.values()) for name in ("mutants", "noticed"))
    unexplained = sum(int(str(row[-1])) for row in rows)
    rows.append(("all of them", "", mutants, noticed, f"{noticed / mutants:.0%}", unexplained))
    head = "| module | tried | mutants | noticed | share | survivors without a reason |\n|---|---|---|---|---|---|\n"
    table = head + _table(rows)
    listed = [
        f"- {why}: {', '.join(f'{place} ({n})' for place, n in sorted(of.items()))}" for why, of in reasons.items()
    ]
    return "\n".join([table, "", "Why others may live:", "", *sorted(listed)] if listed else [table])


def _table(rows: Sequence[tuple[object, ...]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


if __name__ == "__main__":
    write()
