from collections import Counter
from typing import Any

import pytest
from torchvision.datasets import ImageFolder

import diffaug
from diffaug.cli import main
from diffaug.files import storage

pytestmark = pytest.mark.e2e


def test_export_prints_what_was_written_and_how_to_load_it(capsys, tmp_path, study) -> None:
    main(["export", str(study), "out", "--include-blind"])
    shown = capsys.readouterr()
    assert not shown.out
    line = next(line for line in shown.err.splitlines() if line.startswith("next: "))
    namespace: dict[str, Any] = {}
    exec(line.removeprefix("next: "), namespace)
    assert namespace["train"].classes == ["bright", "dark", "middle"]
    assert len(namespace["train"]) == 31 + 17
    for word in ("train, real", "train, sampled", "test, real", "55 images written to out"):
        assert word in shown.err
    assert len(ImageFolder("out/test")) == 7


@pytest.mark.parametrize("file_format", ["imagefolder", "huggingface", "webdataset"])
def test_json_counts_by_split_origin_and_class(answer, tmp_path, study, file_format) -> None:
    options = ["--include-blind", "--format", file_format, "--only", "synthetic", "--shard-size", "2", "--quiet"]
    content = answer("export", str(study), str(tmp_path / "out"), *options)
    counts = content["results"]["counts"]
    assert counts.keys() == {"train"}
    assert counts["train"].keys() == {"sampled", "variation"}
    assert sum(map(Counter, counts["train"].values()), Counter()) == {"bright": 11, "middle": 6}
    assert content["results"]["images"] == 17
    assert str(tmp_path / "out") in content["next"]
    assert len(list((tmp_path / "out").glob("*.tar"))) == (9 if file_format == "webdataset" else 0)


def test_python_exports_what_the_command_does(tmp_path, study) -> None:
    main(["export", str(study), str(tmp_path / "typed"), "--format", "webdataset", "--split", "test", "--quiet"])
    augmenter = diffaug.DiffusionAugmenter.open(study, verbose=False)
    export = augmenter.export(tmp_path / "called", format="webdataset", splits=["test"])
    assert export.counts == {"test": {"real": {"bright": 1, "dark": 4, "middle": 2}}}
    for name in ("test-000000.tar", storage.DONE):
        assert (tmp_path / "typed" / name).read_bytes() == (tmp_path / "called" / name).read_bytes()


def test_what_cannot_be_done_says_why(fails, tmp_path, job, study) -> None:
    storage.write_text(tmp_path / "full" / "notes.txt", "mine")
    data = str(job.images / "out")
    for arguments, words in (
        ([str(study), str(tmp_path / "out"), "--format", "zip"], "formats: huggingface, imagefolder, webdataset"),
        ([str(study), str(study / "out")], "would lie inside"),
        ([str(study), data], "would lie inside"),
        ([str(tmp_path / "full"), str(tmp_path / "out")], "not a study"),
        ([str(study), str(tmp_path / "out"), "--split", "val"], "splits with images: train, test"),
        ([str(study), str(tmp_path / "out"), "--shard-size", "0"], "--shard-size"),
    ):
        code, message = fails("export", *arguments)
        assert code == 2
        assert words in message
    assert {path.name for path in tmp_path.iterdir()} == {"full", "copy"}


def test_what_is_unsafe_to_publish_is_reported_before_it_is_exported(capsys, tmp_path, study) -> None:
    audit = {"unsafe_to_publish": True, "reasons": ["class 'dark': 3 of 4 candidates are copies"]}
    metadata = storage.committed_metadata(study / "pool")
    storage.write_json(study / "pool" / "audit.json", audit)
    storage.commit_directory(study / "pool", metadata)
    main(["export", str(study), str(tmp_path / "out")])
    assert "unsafe to publish: class 'dark': 3 of 4 candidates are copies" in capsys.readouterr().err
