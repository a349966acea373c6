"""Traps of diffusers and transformers, each one as a test of how it is avoided."""

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffaug.errors import DataError, MissingExtraError
from diffaug.integrations.pipelines import loading
from diffaug.integrations.pipelines.adapter import Adapter
from diffaug.integrations.pipelines.denoising import encode, require_short
from diffaug.integrations.pipelines.families import family_of
from diffaug.integrations.pipelines.learned import CLASS_ROWS, add_tokens, token_of
from diffaug.integrations.pipelines.loading import import_diffusers, load_pipeline

pytest.importorskip("peft")
pytestmark = pytest.mark.e2e


def copied(base, target):
    shutil.copytree(base, target)
    return target


@pytest.mark.slow
def test_nothing_is_fetched_or_reported(base_of):
    """Both must be set before the libraries are imported."""
    code = (
        "import os; from diffaug.integrations.pipelines.loading import import_diffusers; import_diffusers();"
        "import huggingface_hub.constants as c; assert c.HF_HUB_OFFLINE and c.HF_HUB_DISABLE_TELEMETRY;"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    subprocess.run([sys.executable, "-c", code], check=True, env=clean)


@pytest.mark.slow
def test_importing_a_generator_imports_no_diffusers():
    code = "import sys, diffaug.integrations.diffusers_pipelines; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="peft") as caught:
        import_diffusers()
    assert "diffaug[pretrained]" in caught.value.fix


def test_a_pickle_is_not_loaded_even_where_a_check_would_miss_it(base_of, tmp_path, monkeypatch):
    folder = copied(base_of("sd"), tmp_path / "sd")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    monkeypatch.setattr("diffaug.integrations.pipelines.base._require_part", lambda *args: None)
    with pytest.raises(DataError, match="'unet' of the pipeline can't be loaded"):
        load_pipeline(folder, "cpu")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_damaged_weights_are_named(base_of, tmp_path, part):
    folder = copied(base_of("sd"), tmp_path / "sd")
    for file in (folder / part).glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match=f"'{part}' of the pipeline can't be loaded"):
        load_pipeline(folder, "cpu")


def lost(weights):
    weights.pop(min(weights))


def foreign(weights):
    weights["foreign"] = torch.zeros(3)


def reshaped(weights):
    weights[min(weights)] = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("part", "change"), [("unet", lost), ("vae", foreign), ("text_encoder", reshaped), ("text_encoder", lost)]
)
def test_weights_that_are_not_those_of_their_config_are_named(base_of, tmp_path, part, change):
    """Libraries fill up what is missing at random, and leave out what is not known."""
    folder = copied(base_of("sd"), tmp_path / "sd")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = "foreign" if change is foreign else min(weights)
    change(weights)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(DataError, match=f"weights of '{part}' are not those of its config.json") as caught:
        load_pipeline(folder, "cpu")
    assert caught.value.where == str(folder / part)
    assert caught.value.what.rpartition(" ")[2] in name


def test_what_old_folders_hold_is_neither_run_nor_complained_about(base_of, tmp_path):
    """A safety checker blackens images; some folders bring code of their own, or settings of old schedulers."""
    folder = copied(base_of("sd"), tmp_path / "sd")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / "text_encoder/config.json").read_text())
    config["auto_map"] = {"AutoModel": "own.Own"}
    (folder / "text_encoder/config.json").write_text(json.dumps(config))
    (folder / "text_encoder/own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = said.append
    for library in ("diffusers", "transformers"):
        logging.getLogger(library).addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            loaded = load_pipeline(folder, "cpu")
            family_of(loaded).levels(loaded, (8, 8))
    finally:
        for library in ("diffusers", "transformers"):
            logging.getLogger(library).removeHandler(handler)
    assert loaded.pipe.safety_checker is None
    assert not (tmp_path / "ran").exists()
    assert not said
    assert not warned


def test_by_default_a_pipeline_works_at_the_size_it_was_trained_at(open_pipeline):
    """Below, pictures are poor. The tiny one was trained on 32 x 32 px."""
    assert open_pipeline("sd", size=(12, 12), side=None).frame.inner == (32, 32)
    height, width = open_pipeline("sd", size=(12, 48), side=None).frame.inner
    assert (height, width) == (16, 64)


def test_a_tokenizer_without_a_limit_gets_that_of_clip(base_of, tmp_path):
    folder = copied(base_of("sd"), tmp_path / "sd")
    file = folder / "tokenizer/tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("model_max_length")
    file.write_text(json.dumps(config))
    loaded = load_pipeline(folder, "cpu")
    assert loaded.pipe.tokenizer.model_max_length == loading.CLIP_TOKENS
    assert encode(loaded, ["a cat"])["text"].shape[1] == loading.CLIP_TOKENS


@pytest.mark.slow
def test_stable_diffusion_3_does_without_its_largest_part(build, base_of, tmp_path):
    """The advice of the error works: naming no T5 in the index."""
    folder = copied(base_of("sd3"), tmp_path / "sd3")
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(DataError, match="text_encoder_3") as caught:
        load_pipeline(folder, "cpu")
    assert "[null, null]" in caught.value.fix
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_pipeline(folder, "cpu").pipe.text_encoder_3 is None


def test_an_inpainting_network_is_refused(build, tmp_path):
    from diffusers import UNet2DConditionModel

    pipe = build("sd")
    pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, "in_channels": 9})
    pipe.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="inpainting"):
        load_pipeline(tmp_path, "cpu")


def test_the_vae_computes_in_float32_and_nothing_learns(base_of):
    loaded = load_pipeline(base_of("sd"), "cpu")
    assert next(loaded.vae.parameters()).dtype == torch.float32
    assert not any(one.requires_grad for part in (loaded.network, loaded.vae) for one in part.parameters())
    assert not loaded.network.training


def test_new_tokens_depend_on_no_global_seed_and_change_no_other_row(base_of):
    loaded = [load_pipeline(base_of("sd"), "cpu") for _ in range(2)]
    before = loaded[0].pipe.text_encoder.get_input_embeddings().weight.clone()
    plain = encode(loaded[0], ["a photo of a cat"])["text"]
    rows = []
    for seed, one in enumerate(loaded):
        torch.manual_seed(seed)
        rows.append(add_tokens(one, ("cat", "big_dog"))["text_encoder"])
    assert torch.equal(*rows)
    assert torch.equal(loaded[0].pipe.text_encoder.get_input_embeddings().frozen.weight, before)
    assert torch.equal(encode(loaded[0], ["a photo of a cat"])["text"], plain)
    assert loaded[0].pipe.tokenizer.tokenize(f"a {token_of(1)}")[-1] == token_of(1)
    learned = encode(loaded[0], [f"a photo of a {token_of(0)}"])["text"]
    learned.sum().backward()
    assert rows[0].grad[0].abs().sum() > 0
    assert rows[0].grad[1].abs().sum() == 0


@pytest.mark.slow
def test_pooled_text_ends_at_its_end_and_not_at_a_learned_token(base_of, tmp_path):
    """Older configurations have CLIP pool at the largest id, which a learned token has."""
    folder = copied(base_of("sd3"), tmp_path / "sd3")
    file = folder / "text_encoder/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": 2}))
    loaded = load_pipeline(folder, "cpu")
    before = encode(loaded, ["a cat"])["pooled"]
    add_tokens(loaded, ("cat",))
    assert torch.equal(encode(loaded, ["a cat"])["pooled"], before)
    short, long = (encode(loaded, [f"{token_of(0)} {more}"])["pooled"] for more in ("a", "b"))
    assert not torch.allclose(short[:, :32], long[:, :32])


def test_a_class_conditional_network_of_any_number_of_classes_has_no_class(base_of, open_pipeline):
    """The null class of diffusers' pipeline is 1000, whatever the network has."""
    generator = open_pipeline("dit")
    assert getattr(generator.loaded.network, CLASS_ROWS) == {"cat": 11, "big_dog": 12, "": 10}
    assert generator.sample("cat", [0], num_inference_steps=2, guidance_scale=3.0).shape == (1, 12, 20, 1)


def test_class_names_of_the_pipeline_are_found(base_of, tmp_path):
    folder = copied(base_of("dit"), tmp_path / "dit")
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {"3": "tabby, Big dog"}
    (folder / "model_index.json").write_text(json.dumps(index))
    loaded = load_pipeline(folder, "cpu")
    table = loaded.network.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight.clone()
    adapter = Adapter.install(loaded, ("cat", "big_dog"), rank=0, tokens=False)
    (rows,) = adapter.learned.values()
    assert torch.equal(rows, table[[10, 3]])


def test_a_prompt_that_would_be_cut_off_is_refused(base_of):
    loaded = load_pipeline(base_of("sd"), "cpu")
    require_short(loaded, ["a photo of a cat"])
    with pytest.raises(DataError, match="reads the first 77"):
        require_short(loaded, ["a photo of a cat", "a" * 100])


def test_gray_goes_in_as_color_and_comes_out_as_luma(open_pipeline):
    frame = open_pipeline("sd", size=(12, 20), channels=1).frame
    images = np.arange(240, dtype=np.uint8).reshape(1, 12, 20, 1)
    assert frame.inner == frame.image_size
    seen = frame.enlarged(images)
    assert seen.shape == (1, 3, 12, 20)
    assert torch.equal(seen[:, 0], seen[:, 2])
    assert np.abs(frame.reduced(seen).pixels.astype(int) - images).max() <= 1
    broken = frame.reduced(torch.where(seen == seen.max(), torch.nan, seen))
    assert not broken.finite[0]
    assert not broken.pixels.any()
