import errno
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

import diffaug
from diffaug.cli import main
from diffaug.configuration.settings import FILTER_NAMES
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.records import write_record
from diffaug.files.temporaries import host
from diffaug.stages.generating.log import finish_log
from diffaug.stages.generating.preparing import PoolFilling
from diffaug.stages.job import Job
from diffaug.study import Study
from diffaug.synthesis.audit.memorization import CHECKS
from diffaug.synthesis.pool.pool import SUMMARIES, ClassSummary, blind_classes
from diffaug.tracking.events import read_events

pytestmark = pytest.mark.e2e
SETTINGS = {"diffusion.images_seen": 128, "advanced.chunk_size": 4}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, make_classes, small) -> Path:
    root = tmp_path_factory.mktemp("fitted")
    images = make_classes(root / "images", {"dark": 20, "middle": 12, "bright": 6})
    diffaug.DiffusionAugmenter(study=root / "study", settings={**small, **SETTINGS}, verbose=False).fit(images)
    return root / "study"


@pytest.fixture
def study(fitted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(fitted, tmp_path / "my study")


@pytest.fixture(scope="module")
def generated(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = shutil.copytree(fitted, tmp_path_factory.mktemp("generated") / "study")
    generate(study)
    return study


@pytest.fixture
def pool(study: Path, generated: Path) -> Path:
    shutil.copytree(generated, study, dirs_exist_ok=True)
    return study / "pool"


def opened(study: Path, **arguments: object) -> diffaug.DiffusionAugmenter:
    return diffaug.DiffusionAugmenter.open(study, verbose=False, **arguments)  # type: ignore[arg-type]


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): storage.sha256_file(path) for path in files}


def pictures(folder: Path) -> dict[str, str]:
    return {file: sha256 for file, sha256 in digests(folder).items() if file.endswith(".png")}


def damage(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def generate(study: Path, **arguments: object) -> None:
    opened(study).generate(**arguments)  # type: ignore[arg-type]


def test_processes_on_one_study_make_the_pool_of_one(study: Path, generated: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=generate, args=(study,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert digests(study / "pool") == digests(generated / "pool")
    events = list(read_events(study / "journal.jsonl"))
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    runs = [(event.kind, event.key) for event in events]
    assert runs.count(("start", "generate")) == runs.count(("end", "generate")) == 1


def test_variations_start_from_training_images_of_their_class(study: Path, pool: Path) -> None:
    manifest, images = diffaug.Pool.open(pool).manifest, opened(study).inspect().images("train")
    varied = manifest[manifest["origin"] == "variation"]
    assert set(varied["label"]) == {"bright", "middle"}
    assert [images.labels[images.ids.index(source)] for source in varied["source"]] == list(varied["class_index"])


def test_the_study_is_for_generators_only_while_a_pool_is_filled(study: Path) -> None:
    augmenter = opened(study)
    with Study(study).shared():
        with pytest.raises(UsageError, match="another diffaug process"):
            augmenter.plan()
        augmenter.generate()
    with Study(study).locked(), pytest.raises(UsageError, match="another diffaug process"):
        augmenter.generate()


def test_an_extension_equals_the_larger_pool_made_at_once(study, pool, fitted, tmp_path) -> None:
    before, rows = pictures(pool), diffaug.Pool.open(pool).manifest
    extended = opened(study).generate(more={"bright": 5, "dark": 2})
    assert before.items() <= pictures(pool).items()
    assert extended.manifest["label"].value_counts().to_dict() == {"bright": 16, "middle": 6, "dark": 2}
    shared = extended.manifest.set_index("file").loc[rows["file"]].reset_index()
    pd.testing.assert_frame_equal(shared, rows)
    at_once = Path(shutil.copytree(fitted, tmp_path / "at once"))
    opened(at_once).generate({"bright": 5 + 16, "middle": 10 + 6, "dark": 16 + 2})
    assert pictures(at_once / "pool") == pictures(pool)
    assert extended.verify() == []
    assert len(opened(study).generate()) == len(extended)
    assert len(opened(study).generate(more={"bright": 1})) == len(extended) + 1


def test_an_extension_that_was_stopped_goes_on(study: Path, pool: Path, monkeypatch) -> None:
    size = len(diffaug.Pool.open(pool))
    with monkeypatch.context() as patch:
        patch.setattr("diffaug.stages.generating.generate.write_pool", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            opened(study).generate(more={"bright": 5})
    assert len(diffaug.Pool.open(pool)) == size
    assert diffaug.Pool.open(pool).verify() == []
    with pytest.raises(UsageError, match="another extension is unfinished") as caught:
        opened(study).generate(more={"dark": 5})
    assert f"diffaug generate '{study}'" in caught.value.fix
    assert len(opened(study).generate(more={"bright": 5})) == size + 5


def meanwhile(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """The next process that has filled a pool does not commit it before the action."""
    real = PoolFilling.run

    def run(self: PoolFilling, job: Job) -> None:
        real(self, job)
        monkeypatch.setattr(PoolFilling, "run", real)
        action()

    monkeypatch.setattr(PoolFilling, "run", run)


def test_who_comes_late_leaves_what_others_made_meanwhile(study: Path, monkeypatch) -> None:
    meanwhile(monkeypatch, lambda: (generate(study), generate(study, more={"bright": 2})))
    assert opened(study).generate().manifest["label"].value_counts()["bright"] == 13


def test_who_was_replaced_meanwhile_writes_nothing(study: Path, monkeypatch) -> None:
    meanwhile(monkeypatch, lambda: opened(study, overwrite=True).generate(guidance_scale=2.0))
    with pytest.raises(UsageError, match="another process began this pool meanwhile"):
        opened(study).generate()
    assert diffaug.Pool.open(study).manifest["guidance_scale"].eq(2).all()


def test_an_extension_never_changes_an_image(study: Path, pool: Path, monkeypatch) -> None:
    before = digests(pool)
    shutil.rmtree(study / "chunks")
    real = storage.png_bytes
    monkeypatch.setattr(storage, "png_bytes", lambda pixels: real(pixels ^ 1))
    with pytest.raises(DamagedError, match="would change an image"):
        opened(study).generate(more={"bright": 5})
    assert digests(pool) == before


def test_only_the_chunks_of_the_pool_are_kept(study: Path, pool: Path) -> None:
    [first] = (study / "chunks").glob("*/")
    opened(study, overwrite=True).generate(sampling_strategy="minority")
    assert list((study / "chunks").glob("*/")) == [first]
    opened(study, overwrite=True).generate(guidance_scale=2.0)
    [second] = (study / "chunks").glob("*/")
    assert first != second


def test_what_a_kill_right_after_the_commit_left_undone_is_done_by_the_same_command(study: Path, pool: Path) -> None:
    record = study / "chunks" / "targets.json"
    before = record.read_bytes()
    record.unlink()
    generate(study)
    assert record.read_bytes() == before


def test_nothing_to_generate_makes_an_empty_pool(study: Path) -> None:
    leftover = study / "chunks" / f".extension.json.{host()}.999999.tmp"
    storage.write_unfinished(leftover, b"cut short")
    assert len(opened(study).generate(sampling_strategy={"dark": 16})) == 0
    assert not leftover.exists()


def test_a_class_that_two_filters_cannot_be_calibrated_for_is_named(tmp_path: Path, small, warned) -> None:
    """All images of "one" show one picture, so none can be left out to see how a real one scores."""
    random = np.random.default_rng(0)
    for name, count in (("many", 12), ("few", 6), ("one", 3)):
        for number in range(count):
            pixels = np.full((8, 8), 200) if name == "one" else random.integers(0, 256, (8, 8))
            pixels[0, 0] = 9
            file = tmp_path / "images" / "train" / name / f"{number}.png"
            storage.write_bytes(file, storage.png_bytes(pixels.astype(np.uint8)))
    settings = {**small, **SETTINGS, "synthesis.filters": ["constant", "wrong class"]}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False)
    augmenter.fit(tmp_path / "images").generate()
    assert [text for text in warned if text.endswith("for calibration: one")]


def test_damaged_filters_are_trained_again_with_overwrite(study: Path, pool: Path) -> None:
    damage(study / "filters" / "filters.safetensors")
    with pytest.raises(DamagedError, match="changed"):
        opened(study).generate(more={"bright": 2})
    assert len(opened(study, overwrite=True).generate(guidance_scale=1.5))


def test_an_extension_that_fails_before_it_begins_is_not_added_twice(study: Path, pool: Path) -> None:
    size = len(diffaug.Pool.open(pool))
    damage(study / "filters" / "filters.safetensors")
    with pytest.raises(DamagedError, match=r"diffaug generate .* --overwrite"):
        opened(study).generate(more={"bright": 2})
    assert len(opened(study, overwrite=True).generate()) == size
    assert len(opened(study).generate(more={"bright": 2})) == size + 2


def test_another_encoder_never_replaces_a_pool_unasked(study: Path) -> None:
    encoder = diffaug.ModuleEncoder(torch.nn.Flatten(), "pixels")
    before = digests(opened(study).generate(encoder=encoder).root)
    for request in ({}, {"more": {"bright": 3}}):
        with pytest.raises(UsageError, match="encoder"):
            opened(study).generate(**request)  # type: ignore[arg-type]
    assert digests(study / "pool") == before


def test_a_damaged_pool_is_made_again_as_far_as_it_was_extended(study: Path, pool: Path) -> None:
    extended = opened(study).generate(more={"bright": 4})
    before = digests(extended.root)
    damage(extended.root / extended.files[0])
    opened(study, overwrite=True).generate()
    assert digests(study / "pool") == before


def test_a_generator_of_another_split_is_refused(study: Path) -> None:
    with pytest.raises(UsageError, match="another split"):
        opened(study, overwrite=True, seed=5).generate()


@pytest.mark.parametrize(
    ("options", "message", "fix"),
    [
        (["--more", "5"], "not CLASS=COUNT", "--more defect=500"),
        (["--more", "dark=5", "--more", "dark=3"], "twice", "add the two numbers"),
        (["--more", "brigt=5"], "no class 'brigt'", "did you mean 'bright'?"),
        (["--more", "dark=5"], "no finished pool to extend", "diffaug generate"),
        (["--shard", "9/8"], "there is no shard 9 of 8", "1/8 to 8/8"),
        (["--shard", "3"], "--shard 3: this is not K/N", "--shard 3/8"),
        (["--shard", "1/0"], "there is no shard 1 of 0", "third of eight"),
        (["--shard", "1/2", "--more", "dark=5"], "can't be combined", "--more"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_fix(study, generated, capsys, options, message, fix) -> None:
    for folder in (study, generated) if "no shard" in message else (study,):  # also if nothing is left to do
        with pytest.raises(SystemExit) as caught:
            main(["generate", str(folder), "-q", *options])
        narration = capsys.readouterr().err
        assert caught.value.code == 2
        assert message in narration
        assert fix in narration


def test_shards_then_a_merge_make_the_pool_of_one(study, generated, capsys, monkeypatch) -> None:
    before = digests(study)
    with monkeypatch.context() as patch:
        patch.setattr("portalocker.lock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
        for shard in ("2/2", "1/2"):
            main(["generate", str(study), "--shard", shard, "--json"])
            output = capsys.readouterr()
    assert json.loads(output.out)["results"] == {"shard": [1, 2], "missing": {}}
    assert "shard 1 of 2 is done; still missing: nothing" in output.err
    written = {file for file in digests(study) if file not in before}
    assert {file.split("/")[0] for file in written} <= {"chunks", "filters", ".lock", ".turn.lock"}
    monkeypatch.setattr("diffaug.synthesis.pool.making.ChunkMaker.make", lambda *_: pytest.fail("all is there"))
    assert digests(opened(study).generate().root) == digests(generated / "pool")


def test_verify_names_every_problem_and_exits_3(study: Path, pool: Path, capsys) -> None:
    main(["verify", str(study), "--json"])
    assert json.loads(capsys.readouterr().out)["results"] == {"problems": []}
    image = next((pool / "images").rglob("*.png"))
    image.unlink()
    (pool / "notes.txt").write_text("mine")
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit) as caught:
            main(["verify", str(study), *options])
        assert caught.value.code == 3
    output = capsys.readouterr()
    name = image.relative_to(pool).as_posix()
    problems = json.loads(output.out)["results"]["problems"]
    assert problems == [{"file": name, "what": "missing"}, {"file": "notes.txt", "what": "foreign"}]
    assert f"missing: {name}" in output.err
    assert f"diffaug generate '{study}' --overwrite" in output.err
    assert digests(opened(study, overwrite=True).generate().root)[name]


def test_the_plan_is_shown_with_origins_before_any_work(study: Path, capsys) -> None:
    diffaug.DiffusionAugmenter.open(study).generate()
    plan, _ = capsys.readouterr().err.split("generating", 1)
    assert all(word in plan for word in ("real", "sampled", "variations", "total"))
    assert re.search(r"bright\D+5\D+8\D+3\D+16", plan)


@pytest.mark.slow
def test_commands_killed_at_random_make_the_same_pool(fitted: Path, generated: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(fitted, tmp_path / "killed"))

    def command() -> subprocess.Popen[str]:
        arguments = [sys.executable, "-P", "-m", "diffaug", "generate", str(study), "--no-mlflow"]
        return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)

    random = np.random.default_rng(0)
    running = [command() for _ in range(2)]
    for _ in range(4):
        time.sleep(random.uniform(3, 8))
        victim = running.pop(0)
        victim.kill()
        victim.wait()
        running.append(command())
    for process in running:
        assert process.wait(300) == 0, process.communicate()[1]
    assert digests(study / "pool") == digests(generated / "pool")


def test_a_pool_says_what_its_filters_can_tell(pool: Path) -> None:
    opened_pool = diffaug.Pool.open(pool)
    assert set(opened_pool.power.classes) == {"bright", "dark", "middle"}
    assert opened_pool.power.encoder.startswith("classifier of the training images")
    blind = set(blind_classes(opened_pool))
    manifest = opened_pool.manifest
    assert set(manifest.loc[manifest["blind"], "label"]) == blind & set(manifest["label"])
    check = opened_pool.publication_check
    assert set(check.checked) | set(check.unchecked) == set(CHECKS)
    assert "copies among candidates" in check.checked
    assert check.reasons == opened_pool.unsafe_to_publish


def test_noise_is_called_unlearned_with_the_commands_that_help(study: Path, warned) -> None:
    """A generator of 128 images seen makes noise, which the only filter here, `constant`, lets pass."""
    made = opened(study).generate()
    assert made.power.unlearned
    assert blind_classes(made) == made.classes
    [text] = [text for text in warned if text.startswith("the generator has not learned the images yet")]
    data = Study(study).record.data
    assert f"diffaug fit {quote(str(data))} --study '{study}' --images-seen 1240 --overwrite" in text
    assert f"diffaug generate '{study}' --overwrite" in text


@pytest.mark.parametrize("reason", [*FILTER_NAMES, "non-finite"])
def test_few_images_come_with_a_cause_and_a_command(study: Path, pool: Path, warned, reason) -> None:
    short = ClassSummary(wanted=10, accepted=1, candidates=40, rejected={reason: 38, "constant": 1})
    summaries = {
        "bright": short,
        "dark": short,
        "middle": ClassSummary(wanted=3, accepted=3, candidates=3, rejected={}),
    }
    made = diffaug.Pool.open(pool)
    write_record(pool / "summary.json", SUMMARIES, summaries)
    job = opened(study).job
    job.start_run("generate", "new", name="generate", kind="generate", params={})
    finish_log(job, made)
    [text] = warned
    assert "bright 1 of 10 (" in text and "dark 1 of 10 (" in text and "middle" not in text
    command = "max_synthetic_ratio=1" if reason in {"copy", "duplicate"} else "--images-seen 1240"
    assert command in text
