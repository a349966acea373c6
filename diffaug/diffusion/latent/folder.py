"""Autoencoders on the disk, in the layout of diffusers: `config.json` and safetensors. Pickles are never opened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.errors import UsageError
from diffaug.files import storage

CONFIG, PIPELINE = "config.json", "model_index.json"
WEIGHTS = "diffusion_pytorch_model"
PART = "vae"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
EXAMPLE = "a folder with config.json and diffusion_pytorch_model.safetensors, or that of a pipeline with one in vae/"


@dataclass(frozen=True)
class AutoencoderFolder:
    """A folder that holds an autoencoder.

    Attributes:
        path: Absolute; of a pipeline, its subfolder.
        class_name: Of the network, as `config.json` says.
        variant: A suffix of the names of the weights, such as `fp16`; usually empty.
        is_part: Whether the folder of a pipeline was given.
    """

    path: Path
    class_name: str
    variant: str = ""
    is_part: bool = False

    @classmethod
    def find(cls, path: str | Path) -> AutoencoderFolder:
        """Looks at a folder and loads nothing.

        Raises:
            UsageError: There is no autoencoder in it, or none with safetensors.
        """
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            what = "there is no such folder" if not folder.exists() else "this is a file, not a folder"
            raise UsageError(f"the autoencoder: {what}", where=folder, fix=f"nothing is downloaded; give {EXAMPLE}")
        is_part = (folder / PIPELINE).is_file()
        if is_part and not (folder / PART / CONFIG).is_file():
            what = "the folder is a pipeline without an autoencoder in vae/"
            raise UsageError(what, where=folder, fix=f"give {EXAMPLE}")
        folder = folder / PART if is_part else folder
        return cls(folder, _class_name(folder), _variant(folder), is_part)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read, sorted; weights may lie in several."""
        stem = f"{WEIGHTS}.{self.variant}" if self.variant else WEIGHTS
        parts = (f"{stem}.safetensors", f"{stem}.safetensors.index*.json", f"{stem}-*-of-*.safetensors")
        return tuple(sorted([self.path / CONFIG, *(file for part in parts for file in self.path.glob(part))]))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def sha256(self) -> str:
        """Names the content of all files."""
        return storage.sha256_bytes(json.dumps([storage.sha256_file(file) for file in self.files]).encode())

    def copy_to(self, target: Path) -> None:
        """Copies the files into a folder of the caller."""
        for file in self.files:
            storage.write_bytes(target / file.name, file.read_bytes())


def _class_name(folder: Path) -> str:
    if not (folder / CONFIG).is_file():
        raise UsageError("the folder holds no autoencoder: it has no config.json", where=folder, fix=f"give {EXAMPLE}")
    try:
        content: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        fix = "copy the folder again"
        raise UsageError(f"not valid JSON ({error})", where=folder / CONFIG, fix=fix) from error
    name = content.get("_class_name") if isinstance(content, dict) else None
    if not isinstance(name, str):
        what = "the folder holds no autoencoder: its config.json names no class of diffusers"
        raise UsageError(what, where=folder, fix=f"give {EXAMPLE}")
    return name


def _variant(folder: Path) -> str:
    """The suffix of the weights; those without one are preferred. A UsageError if there are no safetensors."""
    found = sorted(file.name for file in folder.glob(f"{WEIGHTS}*.safetensors"))
    if any(name == f"{WEIGHTS}.safetensors" or name.startswith(f"{WEIGHTS}-") for name in found):
        return ""
    if found:
        return found[0].removeprefix(f"{WEIGHTS}.").partition("-")[0].removesuffix(".safetensors")
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        what = f"the weights are a pickle, which may run any code: {pickles[0]}"
        fix = f"get {WEIGHTS}.safetensors from where the folder comes from; or load the model with diffusers where you "
        raise UsageError(what, where=folder, fix=f"{fix}trust it, and save it with model.save_pretrained(FOLDER)")
    raise UsageError(f"the folder has no weights: {WEIGHTS}.safetensors is missing", where=folder, fix="copy it again")
