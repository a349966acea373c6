"""Loads a pipeline from its folder: offline, safetensors only, without filters that change images."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from diffaug.errors import DataError, MissingExtraError
from diffaug.integrations.pipelines.base import INDEX, Layout, read_layout
from diffaug.runtime.devices import computes_in_bfloat16, use_fast_kernels

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
EXTRA = "pretrained"
CLIP_TOKENS = 77
UNLIMITED = 10**6  # a tokenizer without a limit has one of 1e30
OPTIONS = {"Stable Diffusion": {"requires_safety_checker": False}, "Stable Diffusion XL": {"add_watermarker": False}}


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline in memory, frozen and in evaluation mode.

    Attributes:
        pipe: The object of diffusers. Its `__call__` is never used.
        network: What denoises latents.
        vae: Between pixels and latents, always in float32: in half precision some give NaN.
    """

    layout: Layout
    pipe: Any
    network: nn.Module
    vae: nn.Module
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's own weights."""
        return next(self.network.parameters()).dtype


def import_diffusers() -> Any:
    """The package, imported without access to the network; a MissingExtraError if the extra is not installed."""
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    for package in ("diffusers", "transformers", "peft"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError.of(package, EXTRA) from error
    import diffusers

    return diffusers


def load_pipeline(folder: str | Path, device: str) -> LoadedPipeline:
    """Loads a pipeline, see `read_layout` for what is refused before anything is loaded.

    Parts that the index leaves out must be left out again by name. On a GPU that computes in bfloat16, everything
    but the VAE does.

    Raises:
        DataError: A file is damaged, or weights are not those of the config beside them.
    """
    layout = read_layout(folder)
    diffusers = import_diffusers()
    with _quiet():
        networks = {name: _load_network(layout, name, _dtype_of(name, device)) for name in layout.networks}
        options = {**dict.fromkeys(layout.absent), **OPTIONS.get(layout.family, {}), **networks}
        with _damage_named("this pipeline", layout.folder / INDEX):
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                str(layout.folder.resolve()), local_files_only=True, use_safetensors=True, **options
            )
    pipe.set_progress_bar_config(disable=True)
    return _prepared(layout, pipe, device)


def _load_network(layout: Layout, name: str, dtype: torch.dtype) -> nn.Module:
    """A part that has weights; libraries would fill up what is missing of them at random."""
    library, kind = layout.parts[name]
    part = layout.folder / name
    with _damage_named(f"the part '{name}' of the pipeline", part):
        network, found = getattr(importlib.import_module(library), kind).from_pretrained(
            str(part.resolve()),
            local_files_only=True,
            use_safetensors=True,
            variant=layout.variant(name),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported instead
            **{"dtype" if library == "transformers" else "torch_dtype": dtype},
        )
    keys = {
        "missing": found["missing_keys"],
        "unknown": found["unexpected_keys"],
        "of another shape": [key for key, *_ in found["mismatched_keys"]],
    }
    wrong = [f"{len(names)} are {how}, such as {min(names)}" for how, names in keys.items() if names]
    if wrong:
        what = f"the weights of '{name}' are not those of its config.json: {'; '.join(wrong)}"
        raise DataError(what, where=part, fix=f"copy config.json and weights of {name}/ from the same model")
    return cast(nn.Module, network)


def _dtype_of(name: str, device: str) -> torch.dtype:
    return torch.bfloat16 if name != "vae" and computes_in_bfloat16(device) else torch.float32


@contextmanager
def _damage_named(what: str, where: Path) -> Iterator[None]:
    """A block in which whatever a damaged file makes libraries raise is a DataError."""
    try:
        yield
    except Exception as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{what} can't be loaded: {first}", where=where, fix="copy the folder again, whole") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """A block without progress bars, and without warnings about settings that old folders have."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_diffusers.disable_progress_bar()
        of_transformers.disable_progress_bar()
        try:
            yield
        finally:
            of_diffusers.enable_progress_bar()
            of_transformers.enable_progress_bar()


def _prepared(layout: Layout, pipe: Any, device: str) -> LoadedPipeline:
    use_fast_kernels(device)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(device).eval().requires_grad_(False)
    for name, part in pipe.components.items():
        if name.startswith("tokenizer") and part is not None and part.model_max_length > UNLIMITED:
            part.model_max_length = CLIP_TOKENS  # pipelines fill up to it
    network = pipe.components.get("unet") or pipe.components["transformer"]
    if network.config.in_channels != pipe.vae.config.latent_channels and layout.family != "Flux":
        what = (
            f"the network takes {network.config.in_channels} channels and the latents have "
            f"{pipe.vae.config.latent_channels}, so it is made for inpainting or editing alone"
        )
        raise DataError(what, where=layout.folder, fix="use the pipeline that makes images from text")
    return LoadedPipeline(layout, pipe, network, pipe.vae, torch.device(device))
