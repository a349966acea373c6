"""When a study keeps its catalog, reads the images again, or refuses to; and what is said about them."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffaug.configuration.settings import Config, DataSettings
from diffaug.configuration.sources import Resolved
from diffaug.data.building.build import parts_beside
from diffaug.data.catalog import Catalog, GroupProposal
from diffaug.data.domain import DomainReport
from diffaug.data.resize import SizeChoice, SizeScore
from diffaug.decoding.intensity import IntensityRange
from diffaug.errors import DamagedError, Interrupted, UsageError
from diffaug.files import storage
from diffaug.runtime.console import Narrator
from diffaug.stages import catalog as stage
from diffaug.stages.job import Job
from diffaug.study import Study, StudyRecord


class Recorder(Narrator):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
        self.steps: list[tuple[str, float, float]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.tables.append((title, columns, rows))

    def progress(self, stage: str, done: float, total: float, detail: str = "") -> None:
        self.steps.append((stage, done, total))


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_images(root: Path) -> Path:
    """Four images of each of two classes."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(4):
            save(root / name / f"{number}.png", random.integers(0, 256, (8, 8), np.uint8))
    return root


def new_job(folder: Path, *, data: Path, overwrite: bool = False, seed: int = 0, **settings: Any) -> Job:
    config = Config(seed=seed, device="cpu", encoder="none", data=DataSettings(**settings))
    never: Any = None
    study = Study(folder / "study", StudyRecord(data))
    return Job(study, Resolved(config, {}), Recorder(), never, never, "diffaug run DATA", overwrite)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data")


@pytest.fixture
def job(tmp_path: Path, root: Path) -> Callable[..., Job]:
    return lambda data=root, **options: new_job(tmp_path, data=data, **options)


def train(job: Job) -> None:
    """Begins the study, with a finished generator."""
    job.study.begin()
    storage.write_text(job.study.generator / "weights", "")
    storage.commit_directory(job.study.generator, {})


def counts(catalog: Catalog) -> dict[str, int]:
    return catalog.counts().sum(axis=1).to_dict()


def test_images_are_read_once_and_again_only_if_they_changed(job, root, monkeypatch) -> None:
    first = job()
    catalog = stage.prepare_catalog(first)
    assert counts(catalog) == {"cat": 4, "dog": 4}
    assert first.narrator.steps[-1] != first.narrator.steps[0]
    assert {name for name, *_ in first.narrator.steps} == {"reading images", "comparing images"}
    assert ("reading images", 8, 8) in first.narrator.steps
    record = storage.committed_metadata(first.study.catalog)
    assert record["settings"] == {"seed": 0, **json.loads(first.config.data.model_dump_json())}

    monkeypatch.setattr(stage, "build_catalog", lambda *_, **__: pytest.fail("read again"))
    again = job()
    assert stage.prepare_catalog(again).fingerprint == catalog.fingerprint
    assert not again.narrator.said and not again.narrator.warned
    monkeypatch.undo()
    (root / "cat" / "3.png").rename(root / "dog" / "4.png")
    moved = job()
    assert counts(stage.prepare_catalog(moved)) == {"cat": 3, "dog": 5}
    changes = "files since the catalog was made: 1 added (dog/4.png), 1 removed (cat/3.png)"
    assert moved.narrator.said == [f"the images changed, reading them again: {changes}"]


def test_what_a_reader_that_was_killed_when_it_was_done_left_is_removed(job) -> None:
    first = job()
    stage.prepare_catalog(first)
    left = parts_beside(first.study.catalog)
    storage.write_text(left / "of an earlier reader" / "000000.json", "{}")
    stage.prepare_catalog(job())
    assert not left.exists()


def test_other_settings_read_the_images_again_unless_they_trained_a_generator(job) -> None:
    assert stage.prepare_catalog(job()).image_size == (8, 8)
    small = job(image_size=4)
    assert stage.prepare_catalog(small).image_size == (4, 4)
    assert stage.prepare_catalog(job(image_size=4, seed=1)).image_size == (4, 4)
    train(small)
    for other, what in ((job(image_size=4), "seed 1 -> 0"), (job(image_size=6, seed=1), "image_size 4 -> 6")):
        with pytest.raises(UsageError, match=f"made with other settings: {what}\n") as caught:
            stage.prepare_catalog(other)
        assert caught.value.where == str(small.study.catalog)
    assert stage.prepare_catalog(job(image_size=6, seed=1, overwrite=True)).image_size == (6, 6)


def test_images_that_trained_a_generator_are_replaced_only_by_request(job, root) -> None:
    made = job()
    before = stage.prepare_catalog(made)
    train(made)
    save(root / "cat" / "new.png", np.eye(8, dtype=np.uint8) * 255)
    with pytest.raises(UsageError) as caught:
        stage.prepare_catalog(job())
    assert caught.value.what == (
        "the images changed since this study's generator was trained: "
        "files since the catalog was made: 1 added (cat/new.png)"
    )
    assert caught.value.where == str(root) and "--overwrite" in caught.value.fix
    assert Catalog.load(made.study.catalog).fingerprint == before.fingerprint
    wanted = job(overwrite=True)
    assert counts(stage.prepare_catalog(wanted)) == {"cat": 5, "dog": 4}
    assert wanted.narrator.said == []


def test_a_catalog_of_other_images_is_kept_by_a_study_that_has_begun_only(job, root, tmp_path) -> None:
    stage.prepare_catalog(job())
    shutil.copytree(root, tmp_path / "other")
    (tmp_path / "other" / "cat" / "0.png").unlink()
    other = job(data=tmp_path / "other")
    assert counts(stage.prepare_catalog(other)) == {"cat": 3, "dog": 4}
    assert other.narrator.said == []  # nothing changed: these are other images


def test_a_damaged_catalog_is_refused_or_made_again(job) -> None:
    made = job()
    expected = stage.prepare_catalog(made).fingerprint
    for damage in (b"", b"{}"):
        (made.study.catalog / storage.DONE).write_bytes(damage)
        with pytest.raises(DamagedError):
            stage.prepare_catalog(job())
        assert stage.prepare_catalog(job(overwrite=True)).fingerprint == expected
        assert stage.prepare_catalog(job()).fingerprint == expected


@pytest.mark.parametrize("missing", ["data", "further"])
def test_where_a_folder_is_missing_the_copy_of_its_images_is_used(job, root, tmp_path, missing) -> None:
    save(tmp_path / "further" / "x.png", np.full((8, 8), 9, np.uint8))
    made = stage.prepare_catalog(job(unlabeled=str(tmp_path / "further")))
    assert len(made.rows("unlabeled")) == 1
    shutil.rmtree(tmp_path / missing)
    again = job(unlabeled=str(tmp_path / "further"))
    assert stage.prepare_catalog(again).fingerprint == made.fingerprint
    sentence = f"the folder {tmp_path / missing} is missing; using the copy of its images in the study"
    assert again.narrator.warned == [sentence]


def test_a_study_among_the_unlabeled_images_is_refused(job, tmp_path) -> None:
    for folder in (tmp_path, tmp_path / "study"):
        with pytest.raises(UsageError, match="the study is inside the folder of unlabeled images") as caught:
            stage.prepare_catalog(job(unlabeled=str(folder)))
        assert caught.value.where == str(tmp_path / "study") and "--study" in caught.value.fix


def test_an_interruption_says_how_far_it_came_and_how_to_go_on(job, monkeypatch) -> None:
    def interrupted(*_: Any, progress: Callable[[int, int], None], **__: Any) -> None:
        progress(1234, 5678)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "build_catalog", interrupted)
    stopped = job()
    with pytest.raises(Interrupted) as caught:
        stage.prepare_catalog(stopped)
    assert caught.value.what == "stopped: 1,234 of 5,678 files were read and are kept"
    assert caught.value.where == str(stopped.study.path)
    assert caught.value.fix == "continue with: diffaug run DATA"


def test_what_looks_for_foreign_images_is_told_first(job, monkeypatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(stage, "describe_by", lambda labeled, **options: asked.append({"labeled": labeled, **options}))
    looking = job(seed=3)
    stage._describe(looking, labeled := object())
    assert asked == [{"labeled": labeled, "encoder": "none", "device": "cpu", "seed": 3}]
    assert looking.narrator.said == ["looking for foreign images among the unlabeled ones ..."]


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("catalog")
    return stage.prepare_catalog(new_job(folder, data=write_images(folder / "data")))


def shown(catalog: Catalog) -> Recorder:
    narrator: Any = Recorder()
    never: Any = None
    stage.show_catalog(Job(never, never, narrator, never, never, ""), catalog)
    return narrator


def test_counts_sizes_and_the_first_problems_are_shown(catalog) -> None:
    plain = replace(catalog, problems=[])
    seen = shown(plain)
    assert seen.tables == [
        ("Images", ["class", "train", "val", "test"], [["cat", "3", "0", "1"], ["dog", "3", "0", "1"]])
    ]
    assert seen.said == [catalog.reading, *stage.facts_of(plain)]
    size = SizeChoice(16, (SizeScore(8, 0.51234, 0.01), SizeScore(16, 0.75, 0.0456)), 8, "16 px is enough")
    seen = shown(replace(plain, size=size, root=Path("my data")))
    columns = ["short side", "balanced accuracy, %", "standard error, points"]
    assert seen.tables[1:] == [("Working size", columns, [["8 px", "51.2", "1.0"], ["16 px", "75.0", "4.6"]])]
    numbers = [str(number) for number in range(11)]
    assert shown(replace(plain, problems=numbers[:8])).warned == numbers[:8]
    more = "and 3 more problems: diffaug inspect 'my data' --json"
    assert shown(replace(plain, problems=numbers, root=Path("my data"))).warned == [*numbers[:8], more]


def edited(catalog: Catalog, **columns: Sequence[Any]) -> Catalog:
    """The catalog with other values in columns of its table."""
    return replace(catalog, table=catalog.table.assign(**columns))


def test_sizes_are_told_with_what_was_done_to_them(catalog) -> None:
    def told(catalog: Catalog) -> str:
        return stage.facts_of(catalog)[0]

    assert told(catalog) == f"working size 8 x 8 px, gray, for images; {catalog.size.reason}"
    assert told(replace(catalog, size=None, channels=3)) == "working size 8 x 8 px, RGB, for images"
    wide = edited(replace(catalog, size=None), width=[20] * 8)
    assert told(wide) == f"working size 8 x 8 px, gray, for images of 20 x 8 px; {catalog.resize.reason}"
    high = edited(replace(catalog, size=None), height=[5, *[9] * 7], width=[30, *[7] * 7])
    assert told(high) == f"working size 8 x 8 px, gray, for images of 7 x 5 to 30 x 9 px; {catalog.resize.reason}"
    oblong = replace(catalog, size=None, image_size=(4, 6))
    assert told(oblong).startswith("working size 6 x 4 px, gray, for images of 8 x 8 px")


def test_depth_groups_near_duplicates_and_masks_are_told_where_there_are_any(catalog) -> None:
    plain = replace(catalog, size=None)
    assert len(stage.facts_of(plain)) == 1
    depth = IntensityRange(0, 1000, "a reason")
    assert stage.facts_of(replace(plain, intensity=depth))[1:] == [depth.describe()]
    test, train = (list(np.flatnonzero(plain.table["split"] == split)) for split in ("test", "train"))
    groups, pictures = np.full(8, "", object), np.full(8, "", object)
    groups[train[:3]], groups[test[:1]] = ["a", "a", "b"], "c"
    pictures[train[:4]] = ["x", "x", "x", "y"]
    told = stage.facts_of(edited(plain, group=groups, picture=pictures, mask=["m.png", *[""] * 7]))
    assert told[1:] == [
        "3 groups of 4 images, each on one side of the split",
        "2 sets of near-duplicates, 4 images in all",
        "1 images with a mask, which is kept beside them",
    ]
    groups[test[0]] = "a"
    cut = stage.facts_of(edited(plain, group=groups))[1]
    assert cut == "2 groups of 4 images, 1 of them in more than one split"


def test_proposed_groups_are_told_with_the_flag_that_uses_them(catalog) -> None:
    proposal = GroupProposal(r"p(\d+)", 3, "names begin alike", confirmed=False)
    told = stage.facts_of(replace(catalog, proposal=proposal))[1:]
    assert told == [r"names begin alike; to keep groups together: --group-by 'p(\d+)'"]
    told = stage.facts_of(replace(catalog, proposal=replace(proposal, confirmed=True)))[1:]
    assert told[0].startswith("names begin alike, which near-duplicates confirm; to keep")


def test_unlabeled_images_are_told_with_what_was_left_out(catalog) -> None:
    split = ["unlabeled", "unlabeled", *catalog.table["split"][2:]]
    some = edited(replace(catalog, size=None), split=split)
    assert stage.facts_of(some)[1:] == ["2 unlabeled images are used"]
    measured = replace(some, domain=DomainReport("patches", 0, 1234))
    assert stage.facts_of(measured)[1:] == [
        "2 unlabeled images are used; left out as foreign: 1,234 (measured by patches)"
    ]
    lighter = replace(some, domain=DomainReport("patches", 1001, 0))
    assert stage.facts_of(lighter)[1:] == [
        "2 unlabeled images are used, 1,001 of them with less weight, being less like the labeled ones; "
        "left out as foreign: 0 (measured by patches)"
    ]
    none = replace(catalog, domain=DomainReport("patches", 0, 5))
    assert stage.facts_of(none)[1:] == ["0 unlabeled images are used; left out as foreign: 5 (measured by patches)"]


def test_results_for_machines_hold_everything_and_are_json(catalog) -> None:
    status = ["truncated", *["ok"] * 7]
    one = edited(
        catalog,
        status=status,
        note=["cut", *[""] * 7],
        split=["", "unlabeled", *catalog.table["split"][2:]],
        group=["", "", "a", "a", "b", "", "", ""],
        picture=["", "x", "x", "x", "y", "", "", ""],
        mask=["", "", "m", "m", "", "", "", ""],
        left_out=["bad", "", "", "", "", "", "", "foreign"],
    )
    size = SizeChoice(8, (), 8, "why")
    results = stage.results_of(replace(one, size=size, intensity=IntensityRange(0, 9, "r"), problems=["p"]))
    assert json.loads(storage.json_bytes(results))
    table = one.table
    expected = {
        split: {name: int(((table["split"] == split) & (table["label"] == name)).sum()) for name in ("cat", "dog")}
        for split in ("train", "val", "test")
    }
    assert results["counts"] == expected
    assert results["images_by_split"] == {**{s: sum(n.values()) for s, n in expected.items()}, "unlabeled": 1}
    assert results["unusable"] == [{"path": "cat/0.png", "status": "truncated", "note": "cut"}]
    assert results["statuses"] == {"ok": 7, "truncated": 1}
    assert (results["groups"], results["pictures_shown_again"], results["masks"]) == (2, 2, 2)
    assert results["unlabeled"] == {
        "used": 1,
        "left_out": {"foreign": 1},
        "measured_by": "",
        "weighed_down": 0,
        "foreign": 0,
    }
    assert results["size"] == {"side": 8, "scores": (), "images": 8, "reason": "why"}
    assert results["intensity"]["high"] == 9 and results["proposed_groups"] is None
    assert (results["image_size"], results["channels"], results["problems"]) == ([8, 8], 1, ["p"])
    assert results["resize"]["resize"] == "squeeze" and results["leaks"] == []
    assert results["reading"] == catalog.reading
    without = stage.results_of(catalog)
    assert without["intensity"] is None and without["size"]["side"] is None
