"""Pools of a study: filled by several processes, by shards, extended, verified."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import diffaug
from diffaug.cli import main
from diffaug.configuration.settings import SynthesisSettings
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.temporaries import host
from diffaug.runtime.console import SilentNarrator
from diffaug.stages.generating.filling import Filling
from diffaug.stages.job import Job
from diffaug.study import Study
from diffaug.tracking.journal import read_events

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SETTINGS = {
    "diffusion.images_seen": 128,
    "diffusion.base_channels": 16,
    "diffusion.batch_size": 16,
    "synthesis.num_inference_steps": 4,
    "synthesis.chunk_size": 4,
    "synthesis.filters": ["constant"],
    "synthesis.filter_max_steps": 3,
    "tracking.mlflow": False,
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a generator, to be copied."""
    root = tmp_path_factory.mktemp("fitted")
    random = np.random.default_rng(0)
    for position, (name, count) in enumerate({"dark": 20, "middle": 12, "bright": 6}.items()):
        for number in range(count):
            pixels = (random.integers(0, 60, (8, 8, 1)) + position * 60).astype(np.uint8)
            storage.write_bytes(root / "images" / name / f"{number:03d}.png", storage.png_bytes(pixels))
    diffaug.DiffusionAugmenter(study=root / "study", settings=SETTINGS, verbose=False).fit(root / "images")
    return root / "study"


@pytest.fixture
def study(fitted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(fitted, tmp_path / "study")


def opened(study: Path, **arguments: object) -> diffaug.DiffusionAugmenter:
    return diffaug.DiffusionAugmenter.open(study, verbose=False, **arguments)  # type: ignore[arg-type]


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): storage.sha256_file(path) for path in files}


def pictures(folder: Path) -> dict[str, str]:
    return {file: sha256 for file, sha256 in digests(folder).items() if file.endswith(".png")}


def generate(study: Path, **arguments: object) -> None:
    opened(study).generate(**arguments)  # type: ignore[arg-type]


@pytest.fixture
def pool(study: Path) -> Path:
    return opened(study).generate().root


def started(function, *arguments, **keywords):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments, kwargs=keywords)
    process.start()
    return process


def test_processes_on_one_study_make_the_pool_of_one(study: Path, pool: Path, fitted: Path, tmp_path: Path) -> None:
    together = Path(shutil.copytree(fitted, tmp_path / "together"))
    processes = [started(generate, together) for _ in range(3)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert digests(together / "pool") == digests(pool)
    numbers = [event.number for event in read_events(together / "journal.jsonl")]
    assert numbers == list(range(1, len(numbers) + 1))
    runs = [(event.kind, event.key) for event in read_events(together / "journal.jsonl")]
    assert runs.count(("start", "generate")) == runs.count(("end", "generate")) == 1


def test_the_study_is_for_generators_only_while_a_pool_is_filled(study: Path) -> None:
    augmenter = opened(study)
    with Study(study).shared():
        with pytest.raises(UsageError, match="another diffaug process"):
            augmenter.plan()
        augmenter.generate()
    with Study(study).locked(), pytest.raises(UsageError, match="another diffaug process"):
        augmenter.generate()


def test_variations_vary_images_the_generator_was_trained_on(study: Path, pool: Path) -> None:
    manifest = diffaug.Pool.open(pool).manifest
    varied = manifest[manifest["origin"] == "variation"]
    assert set(varied["label"]) == {"bright", "middle"}
    catalog = opened(study).inspect()
    images = catalog.images("train")
    for row in varied.itertuples():
        assert images.labels[images.ids.index(row.source)] == row.class_index
    generator, settings = Generator.load(study), SynthesisSettings(num_inference_steps=4)
    first = varied.iloc[0]
    source = images.pixels[[images.ids.index(first["source"])]]
    again = generator.variations(
        np.asarray(source),
        first["label"],
        [int(first["index"])],
        strength=float(first["strength"]),
        seed=int(first["seed"]),
        num_inference_steps=settings.num_inference_steps,
    )
    position = diffaug.Pool.open(pool).files.index(first["file"])
    difference = again[0].astype(int) - diffaug.Pool.open(pool).read(position)
    assert abs(difference).max() <= 1


def test_an_extension_equals_the_larger_pool_made_at_once(study, pool, fitted, tmp_path) -> None:
    before, rows = digests(pool), diffaug.Pool.open(pool).manifest
    extended = opened(study).generate(more={"bright": 5, "dark": 2})
    after = digests(pool)
    kept = {file: sha256 for file, sha256 in before.items() if file.endswith(".png")}
    assert kept.items() <= after.items()
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
        patch.setattr(
            "diffaug.stages.generating.generate.write_pool", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            opened(study).generate(more={"bright": 5})
    assert len(diffaug.Pool.open(pool)) == size
    assert diffaug.Pool.open(pool).verify() == []
    with pytest.raises(UsageError, match="another extension was begun") as caught:
        opened(study).generate(more={"dark": 5})
    assert f"diffaug generate {study}" in caught.value.fix
    assert len(opened(study).generate(more={"bright": 5})) == size + 5


def test_who_comes_late_leaves_what_others_made_meanwhile(study: Path, monkeypatch) -> None:
    real = Filling.run

    def overtaken(self: Filling, job: Job) -> None:
        real(self, job)
        monkeypatch.setattr(Filling, "run", real)
        generate(study)
        generate(study, more={"bright": 2})

    monkeypatch.setattr(Filling, "run", overtaken)
    assert opened(study).generate().manifest["label"].value_counts()["bright"] == 13


def test_who_was_replaced_meanwhile_writes_nothing(study: Path, monkeypatch) -> None:
    real = Filling.run

    def replaced(self: Filling, job: Job) -> None:
        real(self, job)
        monkeypatch.setattr(Filling, "run", real)
        opened(study, overwrite=True).generate(guidance_scale=2.0)

    monkeypatch.setattr(Filling, "run", replaced)
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
    first = {path.name for path in (study / "chunks").iterdir() if path.is_dir()}
    opened(study, overwrite=True).generate(sampling_strategy="minority")
    assert {path.name for path in (study / "chunks").iterdir() if path.is_dir()} == first
    opened(study, overwrite=True).generate(guidance_scale=2.0)
    second = {path.name for path in (study / "chunks").iterdir() if path.is_dir()}
    assert len(first) == len(second) == 1
    assert first != second


def test_nothing_to_generate_makes_an_empty_pool(study: Path) -> None:
    leftover = study / "chunks" / f".extension.json.{host()}.999999.tmp"
    storage.write_unfinished(leftover, b"cut short")
    assert len(opened(study).generate(sampling_strategy={"dark": 16})) == 0
    assert not leftover.exists()


def test_a_class_that_two_filters_cannot_judge_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images of "one" show one picture, so none can be left out to see how a real one scores."""
    random, told = np.random.default_rng(0), []
    for name, count in (("many", 12), ("few", 6), ("one", 3)):
        for number in range(count):
            pixels = np.full((8, 8), 200) if name == "one" else random.integers(0, 256, (8, 8))
            pixels[0, 0] = 9
            file = tmp_path / "images" / "train" / name / f"{number}.png"
            storage.write_bytes(file, storage.png_bytes(pixels.astype(np.uint8)))
    monkeypatch.setattr(SilentNarrator, "warn", lambda self, text: told.append(text))
    settings = {**SETTINGS, "synthesis.filters": ["constant", "off-class"]}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False)
    augmenter.fit(tmp_path / "images").generate()
    assert [text for text in told if text.endswith("to calibrate them: one")]


def test_a_damaged_judge_is_trained_again_where_overwriting_is_asked_for(study: Path) -> None:
    opened(study).generate()
    file = study / "judge" / "judge.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError, match="changed"):
        opened(study).generate(more={"bright": 2})
    assert len(opened(study, overwrite=True).generate(guidance_scale=1.5))


def test_another_encoder_never_replaces_a_pool_unasked(study: Path) -> None:
    encoder = diffaug.ModuleEncoder(torch.nn.Flatten(), "pixels")
    before = digests(opened(study).generate(encoder=encoder).root)
    for request in ({}, {"more": {"bright": 3}}):
        with pytest.raises(UsageError, match="encoder"):
            opened(study).generate(**request)  # type: ignore[arg-type]
    assert digests(study / "pool") == before


def test_a_damaged_pool_is_made_again_as_far_as_it_was_extended(study: Path) -> None:
    opened(study).generate()
    extended = opened(study).generate(more={"bright": 4})
    before = digests(extended.root)
    file = extended.root / extended.files[0]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    opened(study, overwrite=True).generate()
    assert digests(study / "pool") == before


def test_a_generator_of_another_split_is_refused(study: Path) -> None:
    with pytest.raises(UsageError, match="another split"):
        opened(study, overwrite=True, seed=5).generate()


@pytest.mark.parametrize(
    ("options", "message", "fix"),
    [
        (["--class", "bright"], "0 times --more and 1 names", "--more 500 --class NAME"),
        (["--more", "5"], "1 times --more and 0 names", "--more 500 --class NAME"),
        (["--more", "5", "--class", "bride"], "knows no class 'bride'", "classes: bright, dark, middle"),
        (["--more", "5", "--class", "dark"], "no finished pool to extend", "diffaug generate"),
        (["--shard", "9/8"], "there is no shard 9 of 8", "1/8 to 8/8"),
        (["--shard", "3"], "can't read the shard '3'", "--shard 3/8"),
        (["--shard", "1/2", "--more", "5", "--class", "dark"], "can't be combined", "--more"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_fix(study: Path, capsys, options, message, fix) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", str(study), "-q", *options])
    narration = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in narration
    assert fix in narration


@pytest.mark.parametrize(("shard", "fix"), [("3/2", "1/2 to 2/2"), ("0/2", "1/2 to 2/2"), ("1/0", "third of eight")])
def test_a_shard_that_is_none_is_refused_where_nothing_is_left_to_do_too(study, pool, capsys, shard, fix) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", str(study), "-q", "--shard", shard])
    narration = capsys.readouterr().err
    assert caught.value.code == 2
    assert f"there is no shard {shard.replace('/', ' of ')}" in narration
    assert fix in narration


def test_shards_then_a_merge_make_the_pool_of_one(study, pool, fitted, tmp_path, capsys, monkeypatch) -> None:
    sharded = Path(shutil.copytree(fitted, tmp_path / "sharded"))
    before = digests(sharded)

    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr("diffaug.files.locks.fcntl.flock", no_locks)
        for shard in ("2/2", "1/2"):
            main(["generate", str(sharded), "--shard", shard, "--json"])
            output = capsys.readouterr()
    assert json.loads(output.out)["results"] == {"shard": "1/2", "missing": {}}
    assert "shard 1 of 2 is done; still missing: nothing" in output.err
    written = {file for file in digests(sharded) if file not in before}
    assert {file.split("/")[0] for file in written} <= {"chunks", "judge", ".lock", ".turn.lock"}
    monkeypatch.setattr("diffaug.synthesis.pool.chunks.ChunkMaker.make", lambda *_: pytest.fail("all is there"))
    assert digests(opened(sharded).generate().root) == digests(pool)


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
    assert f"diffaug generate {study} --overwrite" in output.err
    assert digests(opened(study, overwrite=True).generate().root)[name]


def test_the_plan_is_shown_with_origins_before_any_work(study: Path, capsys) -> None:
    diffaug.DiffusionAugmenter.open(study).generate()
    plan, _ = capsys.readouterr().err.split("generating", 1)
    assert all(word in plan for word in ("real", "sampled", "variations", "together"))
    assert re.search(r"bright\D+5\D+8\D+3\D+16", plan)


def command(program: list[str], study: Path) -> subprocess.Popen[str]:
    arguments = [*program, "-m", "diffaug", "generate", str(study), "--no-track"]
    return subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_commands_killed_at_random_make_the_same_pool(fitted: Path, tmp_path: Path) -> None:
    whole, study = (Path(shutil.copytree(fitted, tmp_path / name)) for name in ("whole", "killed"))
    assert command([sys.executable, "-P"], whole).wait() == 0
    random = np.random.default_rng(0)
    crew = [command([sys.executable, "-P"], study) for _ in range(2)]
    for _ in range(4):
        time.sleep(random.uniform(3, 8))
        victim = crew.pop(0)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        crew.append(command([sys.executable, "-P"], study))
    for process in crew:
        assert process.wait(300) == 0, process.communicate()[1]
    assert digests(study / "pool") == digests(whole / "pool")


@pytest.mark.slow
def test_torchrun_fills_one_pool(fitted: Path, tmp_path: Path) -> None:
    alone, together = (Path(shutil.copytree(fitted, tmp_path / name)) for name in ("alone", "together"))
    assert command([sys.executable, "-P"], alone).wait() == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = command(torchrun, together)
    narration = process.communicate()[1]
    assert process.returncode == 0, narration
    assert narration.count("pool of 17 images written") == 1
    assert digests(together / "pool") == digests(alone / "pool")
