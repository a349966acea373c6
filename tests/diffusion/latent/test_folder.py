import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffaug.diffusion.latent.autoencoder import open_autoencoder
from diffaug.diffusion.latent.folder import AutoencoderFolder
from diffaug.errors import MissingExtraError, UsageError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(exact_folder, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(exact_folder, tmp_path / "autoencoder"))


def opened(folder: Path) -> AutoencoderFolder:
    found = AutoencoderFolder.find(folder)
    open_autoencoder(found, "cpu")
    return found


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_of_a_pipeline_the_part_vae_is_taken(folder, tmp_path) -> None:
    pipeline = tmp_path / "pipeline"
    (pipeline / "unet").mkdir(parents=True)
    (pipeline / "model_index.json").write_text("{}")
    with pytest.raises(UsageError, match="without an autoencoder"):
        AutoencoderFolder.find(pipeline)
    folder.rename(pipeline / "vae")
    found = opened(pipeline)
    assert (found.path, found.is_part) == (pipeline / "vae", True)


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def configure(**changes: object) -> Callable[[Path], object]:
    return lambda folder: change_config(folder, **changes)


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def lacking(folder: Path) -> None:
    save_file(dict(list(load_file(folder / WEIGHTS).items())[1:]), folder / WEIGHTS)


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, folder / WEIGHTS)


def four_channels(folder: Path) -> None:
    from diffusers import AutoencoderTiny

    blocks = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    counts = {"num_encoder_blocks": (0, 0), "num_decoder_blocks": (0, 0)}
    AutoencoderTiny(out_channels=4, **blocks, **counts).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove("config.json"), "no config.json"),
        (write("config.json", "{"), "not valid JSON"),
        (write("config.json", '{"model_type": "clip"}'), "names no class"),
        (configure(_class_name="UNet2DConditionModel"), "UNet2DConditionModel"),
        (configure(latent_channels=5), "can't be loaded"),
        (remove(WEIGHTS), "has no weights"),
        (write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "can't be loaded"),
        (pickle, "pickle"),
        (lacking, "missing or unknown"),
        (four_channels, "makes 4"),
        (not_finite, "not all of it finite"),
    ],
)
def test_what_is_no_usable_autoencoder_is_refused_with_a_remedy(folder, spoil, reason) -> None:
    spoil(folder)
    with pytest.raises(UsageError, match=reason) as caught:
        opened(folder)
    assert caught.value.fix
    assert caught.value.where


def test_names_and_files_are_no_folders(folder) -> None:
    for path, reason in (
        (Path("stabilityai/sd-vae-ft-mse"), "no such folder"),
        (folder / WEIGHTS, "a file, not a folder"),
    ):
        with pytest.raises(UsageError, match=reason):
            AutoencoderFolder.find(path)


def test_the_remedy_against_a_pickle_works(folder) -> None:
    from diffusers import AutoencoderTiny

    pickle(folder)
    with pytest.raises(UsageError, match=r"model\.save_pretrained\(FOLDER\)"):
        opened(folder)
    AutoencoderTiny.from_pretrained(folder, use_safetensors=False).save_pretrained(folder)
    opened(folder)


def test_weights_of_half_precision_and_in_parts_are_read(kl_folder, tmp_path) -> None:
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(kl_folder)
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    found = opened(tmp_path / "parts")
    assert len(found.files) > 3
    found.copy_to(tmp_path / "copied")
    assert opened(tmp_path / "copied").sha256 == found.sha256
    model.half().save_pretrained(tmp_path / "half", variant="fp16")
    found = opened(tmp_path / "half")
    assert found.variant == "fp16"
    image = torch.zeros(1, 3, 8, 8)
    whole, half = (open_autoencoder(AutoencoderFolder.find(one), "cpu") for one in (kl_folder, tmp_path / "half"))
    assert half.encode(image).mean.dtype == torch.float32
    assert torch.allclose(half.encode(image).mean, whole.encode(image).mean, atol=1e-2)


def test_the_hash_names_weights_and_configuration(folder, exact_folder) -> None:
    before = AutoencoderFolder.find(exact_folder).sha256
    assert AutoencoderFolder.find(folder).sha256 == before
    change_config(folder, scaling_factor=2.0)
    assert AutoencoderFolder.find(folder).sha256 != before


def test_without_diffusers_the_extra_is_named(folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"diffaug\[pretrained\]"):
        opened(folder)


def test_nothing_is_asked_of_the_network(folder, monkeypatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    opened(folder)
