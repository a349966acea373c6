import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torchvision.datasets import ImageFolder

import diffaug
from diffaug.cli import main
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.study import begin_stage, finish_stage


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a pool of two dark and three bright images."""
    root = tmp_path_factory.mktemp("job")
    rng = np.random.default_rng(0)
    for label, count in {"dark": 12, "bright": 6}.items():
        for number in range(count):
            image = rng.integers(0, 256, (8, 8, 1)).astype(np.uint8)
            storage.write_bytes(root / "images" / label / f"{number}.png", storage.png_bytes(image))
    augmenter = diffaug.DiffusionAugmenter(study=root / "study", settings={"tracking.mlflow": False}, verbose=False)
    catalog = augmenter.attach(root / "images").inspect()
    settings = {"seed": 0, **augmenter.config.synthesis.model_dump(mode="json")}
    pool = augmenter.study.pool
    begin_stage(pool, settings, {"catalog": catalog.fingerprint})
    rows = []
    for class_index, index in ((0, 0), (0, 1), (0, 5), (1, 0), (1, 3)):
        content = storage.png_bytes(rng.integers(0, 256, (8, 8, 1)).astype(np.uint8))
        label = catalog.classes[class_index]
        row = {"file": f"images/{label}/{index:06d}.png", "label": label, "class_index": class_index, "index": index}
        rows.append({**row, "origin": "sampled", "sha256": storage.sha256_bytes(content)})
        storage.write_bytes(pool / rows[-1]["file"], content)
    storage.write_parquet(pool / "manifest.parquet", pd.DataFrame(rows))
    finish_stage(pool, {"classes": list(catalog.classes), "image_size": [8, 8], "channels": 1})
    return root / "study"


def test_export_prints_what_was_written_and_how_to_load_it(capsys, tmp_path, study) -> None:
    main(["export", str(study), "out"])
    shown = capsys.readouterr()
    assert not shown.out
    line = next(line for line in shown.err.splitlines() if line.startswith("next: "))
    namespace: dict[str, Any] = {}
    exec(line.removeprefix("next: "), namespace)
    assert namespace["train"].classes == ["bright", "dark"]
    assert len(namespace["train"]) == 15 + 5
    for word in ("train, real", "train, sampled", "test, real", "23 images written to out"):
        assert word in shown.err
    assert len(ImageFolder("out/test")) == 3


@pytest.mark.parametrize("file_format", ["imagefolder", "huggingface", "webdataset"])
def test_json_counts_by_split_origin_and_class(capsys, tmp_path, study, file_format) -> None:
    options = ["--format", file_format, "--only", "synthetic", "--shard-size", "2", "--quiet", "--json"]
    main(["export", str(study), str(tmp_path / "out"), *options])
    content = json.loads(capsys.readouterr().out)
    assert content["results"]["counts"] == {"train": {"sampled": {"bright": 3, "dark": 2}}}
    assert content["results"]["images"] == 5
    assert str(tmp_path / "out") in content["next"]
    assert len(list((tmp_path / "out").glob("*.tar"))) == (3 if file_format == "webdataset" else 0)


def test_python_exports_what_the_command_does(tmp_path, study) -> None:
    main(["export", str(study), str(tmp_path / "typed"), "--format", "webdataset", "--split", "test", "--quiet"])
    augmenter = diffaug.DiffusionAugmenter.open(study, verbose=False)
    export = augmenter.export(tmp_path / "called", format="webdataset", splits=["test"])
    assert export.counts == {"test": {"real": {"bright": 1, "dark": 2}}}
    for name in ("test-000000.tar", storage.DONE):
        assert (tmp_path / "typed" / name).read_bytes() == (tmp_path / "called" / name).read_bytes()


def test_an_export_beside_real_images_is_an_augmented_dataset(tmp_path, study) -> None:
    diffaug.DiffusionAugmenter.open(study, verbose=False).export(tmp_path / "out", only="synthetic")
    pool = diffaug.Pool.open(study)
    exported = ImageFolder(str(tmp_path / "out" / "train"), allow_empty=True)
    assert exported.class_to_idx == pool.class_to_idx
    pixels = {np.asarray(image.convert("L")).tobytes() for image, _ in exported}
    assert pixels == {image.tobytes() for image in pool.images().pixels}


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["export", *arguments])
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return int(stop.value.code or 0), message


def test_what_cannot_be_done_says_why(capsys, tmp_path, study) -> None:
    storage.write_text(tmp_path / "full" / "notes.txt", "mine")
    data = str(study.parent / "images" / "out")
    for arguments, code, words in (
        ([str(study), str(tmp_path / "out"), "--format", "zip"], 2, "formats: huggingface, imagefolder, webdataset"),
        ([str(study), str(study / "out")], 2, "would lie inside"),
        ([str(study), data], 2, "would lie inside"),
        ([str(study), str(tmp_path / "full"), "--overwrite"], 2, "not empty and not an export"),
        ([str(study), str(tmp_path / "full" / "notes.txt" / "out")], 2, "this is a file"),
        ([str(tmp_path / "full"), str(tmp_path / "out")], 2, "not a study"),
        ([str(study), str(tmp_path / "out"), "--split", "val"], 2, "splits that have some: train, test"),
        ([str(study), str(tmp_path / "out"), "--shard-size", "0"], 2, "--shard-size"),
    ):
        assert (found := fails(capsys, *arguments))[0] == code
        assert words in found[1]
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_changed_image_of_the_pool_is_found(capsys, tmp_path, study) -> None:
    image = next((study / "pool").rglob("*.png"))
    whole = image.read_bytes()
    image.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    try:
        code, message = fails(capsys, str(study), str(tmp_path / "out"))
    finally:
        image.write_bytes(whole)
    assert code == 3
    assert image.name in message
    assert not list(tmp_path.iterdir())


def test_without_a_pool_the_command_that_makes_one_is_named(tmp_path, images) -> None:
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", verbose=False).attach(images)
    with pytest.raises(UsageError, match="diffaug generate"):
        augmenter.export(tmp_path / "out")


def test_what_is_unsafe_to_publish_is_said_before_it_is_exported(capsys, tmp_path, study) -> None:
    flagged = Path(shutil.copytree(study, tmp_path / "flagged"))
    audit = {"unsafe_to_publish": True, "reasons": ["class 'dark': 3 of 4 candidates are copies"]}
    storage.write_json(flagged / "pool" / "audit.json", audit)
    main(["export", str(flagged), str(tmp_path / "out")])
    assert "unsafe to publish: class 'dark': 3 of 4 candidates are copies" in capsys.readouterr().err
