"""Pretrained encoders of timm and torchvision. Weights are read from a file or the local cache, or else downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from diffaug.classifiers.encoders.module import Normalization
from diffaug.classifiers.library import import_timm, read_weights
from diffaug.errors import UsageError, did_you_mean

Say = Callable[[str], object]

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # of timm's repositories


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network without its classifier."""

    module: nn.Module  # float RGB NCHW to features (N, D)
    normalization: Normalization  # of the images it was trained on
    side: int  # side in px of those images
    takes_one_size: bool  # whether it takes no other

    @classmethod
    def of_timm(cls, module: nn.Module) -> PretrainedNetwork:
        """A network of timm that was made without its classifier."""
        config: Any = module.pretrained_cfg
        normalization = (tuple(config["mean"]), tuple(config["std"]))
        return cls(module, normalization, config["input_size"][-1], bool(config.get("fixed_input_size")))


def timm_network(name: str, weights: Path | None, say: Say) -> PretrainedNetwork:
    """A network of timm with the weights of a file, or timm's own.

    A UsageError if it is unknown or its weights can't be had, a MissingExtraError if timm is not installed.
    """
    timm = import_timm()
    if not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    found = weights or _cached_file_of_timm(timm, name)
    if found is None:
        say(f"downloading the weights of timm/{name}, once")
    overlay = None if found is None else {"state_dict": read_weights(found)}
    with _WeightsOf(f"timm/{name}", found):
        return PretrainedNetwork.of_timm(
            timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
        )


def torchvision_network(name: str, weights: Path | None, say: Say) -> PretrainedNetwork:
    """A classifier of torchvision without its last layer, with the weights of a file or torchvision's own.

    A UsageError if it is unknown or its weights can't be had.
    """
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    default = torchvision.models.get_model_weights(name).DEFAULT
    found = weights or _cached_file(default.url)
    if found is None:
        say(f"downloading the weights of torchvision/{name}, once")
    with _WeightsOf(f"torchvision/{name}", found):
        tensors = read_weights(found) if found else default.get_state_dict(check_hash=True, weights_only=True)
        module = _torchvision_module(name, tensors)
    preparation = default.transforms()
    normalization = (tuple(preparation.mean), tuple(preparation.std))
    return PretrainedNetwork(module, normalization, preparation.crop_size[0], name.startswith(("vit", "maxvit")))


def _torchvision_module(name: str, tensors: dict[str, Tensor]) -> nn.Module:
    import torchvision

    if name.startswith("densenet"):  # whose weights have the names of an old version
        tensors = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key): tensor for key, tensor in tensors.items()}
    module: nn.Module = torchvision.models.get_model(name, weights=None)
    module.load_state_dict(tensors)
    if hasattr(module, "transform_input"):  # the weights were converted from TensorFlow
        vars(module)["transform_input"] = True
    linear = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if linear:  # SqueezeNet has none
        parent, _, last = linear[-1].rpartition(".")
        setattr(module.get_submodule(parent), last, nn.Identity())
    return module


class _WeightsOf:
    """A block in which weights are loaded or downloaded; whatever fails is a UsageError that says what to do."""

    def __init__(self, name: str, file: Path | None) -> None:
        self.name, self.file = name, file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, UsageError):
            return
        reason = str(error).strip().partition("\n")[0]
        if self.file is not None:
            raise UsageError(
                f"the weights do not belong to {self.name}: {reason}",
                where=self.file,
                fix="give the file of this network's weights, all layers included",
            ) from error
        raise UsageError(
            f"the weights of {self.name} are not in the local cache, and the download failed: {reason}",
            where="encoder",
            fix=f"download them on another machine and name the file: --encoder {self.name}@FILE; or choose another "
            "encoder, such as efficientnet-lite0",
        ) from error


def _cached_file_of_timm(timm: Any, name: str) -> Path | None:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return None
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for file in filter(None, (config.hf_hub_filename, *HUB_FILES)):
            found = try_to_load_from_cache(config.hf_hub_id, file)
            if isinstance(found, str):
                return Path(found)
    return _cached_file(config.url) if config.url else None


def _cached_file(url: str) -> Path | None:
    """The file of torch's cache of downloads."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    return path if path.is_file() else None


def _unknown(library: str, name: str, known: list[str]) -> UsageError:
    fix = did_you_mean(name, known) if name else f"name a network, such as {library}/resnet18"
    return UsageError(f"{library} has no network '{name}'", where="encoder", fix=fix)
