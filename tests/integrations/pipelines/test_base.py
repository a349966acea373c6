"""The folder of a pipeline is checked before anything is loaded."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffaug.errors import DataError, UsageError
from diffaug.files import storage
from diffaug.integrations.pipelines import base
from diffaug.integrations.pipelines.base import describe_base, read_layout, require_same_base
from diffaug.integrations.pipelines.fitting import run


@pytest.fixture
def folder(tmp_path) -> Path:
    """What Stable Diffusion has on disk, with empty weights."""
    root = tmp_path / "sd"
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_index(root, index)
    for part in ("text_encoder", "unet", "vae"):
        storage.write_text(root / part / "config.json", "{}")
        storage.write_text(root / part / "model.safetensors", part)
    storage.write_text(root / "scheduler" / "scheduler_config.json", "{}")
    storage.write_text(root / "tokenizer" / "tokenizer.json", "{}")
    return root


def write_index(root: Path, index: dict) -> None:
    storage.write_json(root / "model_index.json", index)


def change_index(root: Path, **values) -> None:
    write_index(root, {**json.loads((root / "model_index.json").read_text()), **values})


def test_a_whole_folder_is_read_and_the_safety_checker_is_not(folder) -> None:
    layout = read_layout(folder)
    assert layout.family == "Stable Diffusion"
    assert set(layout.parts) == {"scheduler", "text_encoder", "tokenizer", "unet", "vae"}
    assert {"safety_checker", "feature_extractor"} <= set(layout.absent)
    assert layout.networks == ("text_encoder", "unet", "vae")
    assert layout.variant("vae") is None


@pytest.mark.parametrize("name", ["runwayml/stable-diffusion-v1-5", "/nowhere/at/all"])
def test_a_name_on_a_hub_is_no_folder(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no folder") as caught:
        read_layout(name)
    assert "nothing is downloaded" in caught.value.fix


def test_a_folder_without_an_index_and_a_file_are_no_pipelines(tmp_path) -> None:
    storage.write_text(tmp_path / "model.safetensors", "")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UsageError, match="pipeline"):
            read_layout(path)


def test_an_unknown_family_is_refused_with_the_known_ones(folder) -> None:
    change_index(folder, _class_name="KandinskyPipeline")
    with pytest.raises(UsageError, match="KandinskyPipeline") as caught:
        read_layout(folder)
    assert "Stable Diffusion XL" in caught.value.fix


def test_code_of_the_pipeline_is_never_run(folder) -> None:
    change_index(folder, unet=["my_unet", "MyUNet"])
    with pytest.raises(DataError, match="code of its own"):
        read_layout(folder)


@pytest.mark.parametrize(
    "values",
    [
        *({"unet": value} for value in ([], ["diffusers"], ["diffusers", 3], [["diffusers"], "UNet2DConditionModel"])),
        {"../unet": ["diffusers", "UNet2DConditionModel"]},
        *({"id2label": labels} for labels in (["cat"], {"first": "cat"}, 3)),
    ],
)
def test_an_index_of_another_shape_is_refused_by_name(folder, values) -> None:
    change_index(folder, **values)
    with pytest.raises(DataError, match=next(iter(values))) as caught:
        read_layout(folder)
    assert caught.value.where == str(folder / "model_index.json")


@pytest.mark.parametrize("content", [[], {}, {"weight_map": 3}, {"weight_map": {"a": 3}}])
def test_an_index_of_weights_of_another_shape_is_refused(folder, content) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    storage.write_json(file, content)
    with pytest.raises(DataError, match="which weights lie where") as caught:
        read_layout(folder)
    assert caught.value.where == str(file)


@pytest.mark.parametrize("part", ["unet", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(folder, part) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(DataError, match=f"lacks its part '{part}'"):
        read_layout(folder)


def test_weights_only_as_a_pickle_are_refused(folder) -> None:
    (folder / "unet/model.safetensors").rename(folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(DataError, match="pickle") as caught:
        read_layout(folder)
    assert "save_pretrained" in caught.value.fix


def test_pickles_beside_safetensors_are_neither_read_nor_hashed(folder) -> None:
    before = describe_base(folder)
    storage.write_text(folder / "unet/diffusion_pytorch_model.bin", "danger")
    assert describe_base(folder).sha256 == before.sha256


def test_a_changed_record_of_hashed_files_is_made_anew(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run, "pipeline_of", lambda job: folder)
    job, file = SimpleNamespace(study=SimpleNamespace(path=tmp_path)), tmp_path / run.HASHES
    whole = run.described_base(job)
    content = file.read_text()
    digest = whole.files[0].sha256
    file.write_text(content.replace(digest, digest[::-1]))
    assert content.count(digest) and run.described_base(job) == whole
    assert file.read_text() == content


def test_a_missing_shard_is_named(folder) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    storage.write_json(folder / "unet/diffusion_pytorch_model.safetensors.index.json", index)
    storage.write_text(folder / "unet/model-00001-of-00002.safetensors", "")
    with pytest.raises(DataError, match="1 of 2 files of weights are missing: model-00002"):
        read_layout(folder)


def test_weights_of_a_precision_alone_are_asked_for_by_its_name(folder) -> None:
    (folder / "vae/model.safetensors").rename(folder / "vae/model.fp16.safetensors")
    layout = read_layout(folder)
    assert (layout.variant("vae"), layout.variant("unet")) == ("fp16", None)


def test_name_and_license_come_from_the_folder(folder) -> None:
    assert (describe_base(folder).name, describe_base(folder).license) == ("sd", "")
    storage.write_text(
        folder / "README.md", "---\nlicense: creativeml-openrail-m\nmodel_name: 'Tiny SD'\n---\n# A card"
    )
    described = describe_base(folder)
    assert (described.name, described.license) == ("Tiny SD", "creativeml-openrail-m")
    storage.write_text(folder / "LICENSE.md", "You may.\n")
    assert describe_base(folder).license == "You may."


def test_files_are_hashed_once_unless_size_or_time_changes(folder, monkeypatch) -> None:
    described, hashed = describe_base(folder), []
    sha256_file = storage.sha256_file
    monkeypatch.setattr(base.storage, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    assert describe_base(folder, described.files) == described
    assert not hashed
    storage.write_text(folder / "unet/model.safetensors", "xxxx")
    assert describe_base(folder, described.files).sha256 != described.sha256
    assert hashed == ["model.safetensors"]


def test_a_copy_of_the_pipeline_is_the_same_and_a_changed_one_is_not(folder, tmp_path) -> None:
    described, copy = describe_base(folder), tmp_path / "moved"
    shutil.copytree(folder, copy)
    os.utime(copy / "unet/model.safetensors", (1, 1))
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match="is not there") as caught:
        require_same_base(described)
    assert "DIFFAUG_DIFFUSION__PIPELINE" in caught.value.fix
    assert require_same_base(described, copy) == copy
    storage.write_text(copy / "unet/model.safetensors", "tenu")  # as long as before
    with pytest.raises(UsageError, match="is not the one"):
        require_same_base(described, copy)


def test_files_that_are_links_are_read_as_a_download_cache_has_them(folder, tmp_path) -> None:
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    (folder / "unet/model.safetensors").rename(blob)
    (folder / "unet/model.safetensors").symlink_to(blob)
    assert require_same_base(describe_base(folder)) == folder


def test_weights_that_were_added_would_be_loaded_instead_and_are_refused(folder) -> None:
    (folder / "vae/model.safetensors").rename(folder / "vae/model.fp16.safetensors")
    described = describe_base(folder)
    storage.write_text(folder / "vae/model.safetensors", "others")
    with pytest.raises(UsageError, match="is not the one") as caught:
        require_same_base(described)
    assert caught.value.where == str(folder / "vae/model.safetensors")
    (folder / "vae/model.safetensors").unlink()
    assert require_same_base(described) == folder
