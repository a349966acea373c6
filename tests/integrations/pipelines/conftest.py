"""Tiny pipelines of every family, with random weights, each built once and saved as users have them on disk."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAMILIES = ("sd", "sdxl", "sd3", "flux", "pixart", "dit")


def _clip_tokenizer() -> Any:
    """Byte-level CLIP without merges, 514 tokens; nothing is downloaded."""
    from transformers import CLIPTokenizer

    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in codes]
    letters += [chr(256 + n) for n in range(256 - len(codes))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=77)


def _clip(*, projected: bool, width: int = 32) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _clip_tokenizer()
    config = CLIPTextConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        hidden_act="gelu",
        projection_dim=32,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((one, -3.0) for one in letters)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=64)


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    size = len(_t5_tokenizer())
    return T5EncoderModel(T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4))


def _vae(channels: int = 4, *, blocks: int = 2, shift: float | None = None) -> Any:
    from diffusers import AutoencoderKL

    quantized = shift is None
    return AutoencoderKL(
        block_out_channels=(4,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        use_quant_conv=quantized,
        use_post_quant_conv=quantized,
        shift_factor=shift,
    )


UNET = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def build_sd(**scheduler: Any) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=8,
        norm_num_groups=2,
        **UNET,
    )
    return StableDiffusionPipeline(
        unet=unet,
        scheduler=DDIMScheduler(**BETAS, set_alpha_to_one=False, **scheduler),
        vae=_vae(),
        text_encoder=_clip(projected=False, width=8),
        tokenizer=_clip_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def build_sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(2, 4),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        norm_num_groups=1,
        **UNET,
    )
    betas = {key: value for key, value in BETAS.items() if key != "clip_sample"}
    return StableDiffusionXLPipeline(
        unet=unet,
        scheduler=EulerDiscreteScheduler(**betas, steps_offset=1, timestep_spacing="leading"),
        vae=_vae(),
        text_encoder=_clip(projected=False),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(projected=True),
        tokenizer_2=_clip_tokenizer(),
        image_encoder=None,
        feature_extractor=None,
        add_watermarker=False,
    )


def build_sd3(*, t5: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        vae=_vae(blocks=1, shift=0.0609),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=_clip(projected=True),
        text_encoder_2=_clip(projected=True),
        text_encoder_3=_t5() if t5 else None,
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        tokenizer_3=_t5_tokenizer() if t5 else None,
        image_encoder=None,
        feature_extractor=None,
    )


def build_flux(*, distilled: bool = False) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=distilled,
    )
    return FluxPipeline(
        transformer=transformer,
        vae=_vae(blocks=1, shift=0.0609),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=_clip(projected=False),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
        image_encoder=None,
        feature_extractor=None,
    )


TRANSFORMER = {
    "num_layers": 1,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_elementwise_affine": False,
}


def build_pixart() -> Any:
    from diffusers import DDIMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=16,
        patch_size=2,
        num_attention_heads=3,
        caption_channels=32,
        cross_attention_dim=24,
        norm_type="ada_norm_single",
        norm_eps=1e-6,
        **TRANSFORMER,
    )
    return PixArtAlphaPipeline(
        transformer=transformer, vae=_vae(), scheduler=DDIMScheduler(), text_encoder=_t5(), tokenizer=_t5_tokenizer()
    )


def build_dit(*, classes: int = 10) -> Any:
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    shape = {**TRANSFORMER, "num_embeds_ada_norm": classes}
    transformer = DiTTransformer2DModel(
        sample_size=16, patch_size=4, num_attention_heads=2, norm_type="ada_norm_zero", **shape
    )
    return DiTPipeline(transformer=transformer, vae=_vae(), scheduler=DDIMScheduler())


BUILDERS = {
    "sd": build_sd,
    "sdxl": build_sdxl,
    "sd3": build_sd3,
    "flux": build_flux,
    "pixart": build_pixart,
    "dit": build_dit,
}


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """Builds a pipeline of a family; the same arguments give the same weights."""
    pytest.importorskip("peft")
    from diffaug.integrations.pipelines.loading import import_diffusers

    import_diffusers()
    import torch

    def make(family: str, **options: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe = BUILDERS[family](**options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="session")
def base_of(build, tmp_path_factory) -> Callable[..., Path]:
    """The folder of the tiny pipeline of a family, made once; not to be changed."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("pipelines") / family
            build(family).save_pretrained(made[family])
        return made[family]

    return folder


CLASSES = ("cat", "big_dog")


@pytest.fixture(scope="session")
def open_pipeline(base_of) -> Callable[..., Any]:
    """A generator of the tiny pipeline of a family at 16 px, for images of 12 x 20 px, with a new adapter."""
    from diffaug.integrations.pipelines.adapter import Adapter
    from diffaug.integrations.pipelines.fitting.run import usual_prompts
    from diffaug.integrations.pipelines.frame import Frame, inner_size
    from diffaug.integrations.pipelines.generator import PipelineGenerator
    from diffaug.integrations.pipelines.loading import load_pipeline
    from diffaug.integrations.pipelines.prompts import prompts_from

    def make(family, *, size=(12, 20), channels=1, rank=0, template=None, side=16, folder=None):
        loaded = load_pipeline(folder or base_of(family), "cpu")
        prompts = prompts_from(template, CLASSES, {}) if template else usual_prompts(loaded, CLASSES)
        Adapter.install(loaded, CLASSES, rank=rank, tokens=prompts.use_tokens)
        return PipelineGenerator.of(loaded, prompts, Frame(size, channels, inner_size(size, loaded, side)))

    return make
