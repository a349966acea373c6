"""The folder of a pretrained pipeline: what it is, whether it is whole and harmless, and its name for the record.

Everything here looks at files alone. It imports neither diffusers nor torch, and loads no weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffaug.errors import DataError, UsageError
from diffaug.files import storage

INDEX, SAFETENSORS = "model_index.json", ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
LIBRARIES = ("diffusers", "transformers")
UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder")
WITHOUT_WEIGHTS = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3")
AGAIN = "download the pipeline again"
LONGEST_LICENSE = 20_000  # characters
FAMILIES = {
    "StableDiffusionPipeline": "Stable Diffusion",
    "StableDiffusionImg2ImgPipeline": "Stable Diffusion",
    "StableDiffusionXLPipeline": "Stable Diffusion XL",
    "StableDiffusionXLImg2ImgPipeline": "Stable Diffusion XL",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "StableDiffusion3Img2ImgPipeline": "Stable Diffusion 3",
    "FluxPipeline": "Flux",
    "FluxImg2ImgPipeline": "Flux",
    "PixArtAlphaPipeline": "PixArt",
    "PixArtSigmaPipeline": "PixArt",
    "DiTPipeline": "DiT",
}
"""Pipeline class to family."""


@dataclass(frozen=True)
class Layout:
    """What `model_index.json` says.

    Attributes:
        pipeline: Name of the pipeline's class.
        parts: Library and class of each component that is read, by the name of its subfolder.
        absent: Components that the pipeline does without.
        labels: Class index to name, of a pipeline of ImageNet classes; empty if it has none.
    """

    folder: Path
    pipeline: str
    parts: dict[str, tuple[str, str]]
    absent: tuple[str, ...]
    labels: dict[int, str]

    @property
    def family(self) -> str:
        """The name of the family."""
        return FAMILIES[self.pipeline]

    @property
    def networks(self) -> tuple[str, ...]:
        """The components that have weights."""
        return tuple(name for name in self.parts if name not in WITHOUT_WEIGHTS)

    def variant(self, part: str) -> str | None:
        """The precision in the names of all weight files of a part, as in model.fp16.safetensors, if they name one."""
        names = [file.name for file in (self.folder / part).glob(f"*{SAFETENSORS}")]
        marks = [re.search(r"\.(fp16|bf16|fp32)(-\d+-of-\d+)?\.safetensors$", one) for one in names]
        found = [mark[1] for mark in marks if mark]
        return found[0] if found and len(found) == len(names) else None


def read_layout(folder: str | Path) -> Layout:
    """Checks the folder of a pipeline.

    Raises:
        UsageError: It is none, or of a family that is not supported.
        DataError: A part is missing, has its weights only as pickles, or would run code of its own.
    """
    folder = Path(folder).expanduser()
    index = _read_index(folder)
    pipeline = str(index.get("_class_name"))
    if pipeline not in FAMILIES:
        known = ", ".join(dict.fromkeys(FAMILIES.values()))
        what = f"a {pipeline} can't be used as a generator"
        raise UsageError(what, where=folder / INDEX, fix=f"choose a pipeline of one of these families: {known}")
    named = _named_parts(index, folder / INDEX)
    parts = {name: (library, kind) for name, (library, kind) in named.items() if library and kind}
    for name in parts:
        _require_part(folder, name)
    absent = tuple(name for name, (library, _) in named.items() if library is None)
    unused = tuple(name for name in UNUSED_PARTS if name in index)
    try:
        labels = {int(key): str(value) for key, value in dict(index.get("id2label") or {}).items()}
    except (TypeError, ValueError) as error:
        raise DataError("id2label does not name classes by number", where=folder / INDEX, fix=AGAIN) from error
    return Layout(folder, pipeline, parts, (*absent, *unused), labels)


def _named_parts(index: Mapping[str, Any], where: Path) -> dict[str, tuple[str | None, str | None]]:
    """Library and class of each component, None for one that the pipeline does without."""
    named = {}
    for name, value in index.items():
        if not isinstance(value, list) or name in UNUSED_PARTS:
            continue
        is_pair = len(value) == 2 and all(one is None or isinstance(one, str) for one in value)
        if not is_pair or not name.isidentifier():
            raise DataError(f"the part '{name}' is not given by its library and class", where=where, fix=AGAIN)
        library, kind = value
        if library is not None and library not in LIBRARIES:
            what = f"the part '{name}' of the pipeline is code of its own ({library}), which is never run"
            raise DataError(what, where=where, fix="use a pipeline made of parts of diffusers and transformers")
        named[name] = library, kind
    return named


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / INDEX
    if file.is_file():
        content = storage.read_json(file)
        if isinstance(content, dict):
            return content
        raise DataError("this file does not describe a pipeline", where=file, fix=AGAIN)
    fix = f"give a folder with {INDEX}, as save_pretrained of diffusers writes it"
    if not folder.exists():
        fix += "; nothing is downloaded, so the name of a model on a hub is not enough"
        raise UsageError("there is no folder of a pretrained pipeline here", where=folder, fix=fix)
    if folder.is_file():
        raise UsageError("a pipeline is a folder, not one file of weights", where=folder, fix=fix)
    raise UsageError(f"this folder is no diffusers pipeline: it has no {INDEX}", where=folder, fix=fix)


def _require_part(folder: Path, name: str) -> None:
    """Raises DataError if a component is not there or its weights can't be read without unpickling."""
    part = folder / name
    again = f"download {name}/ again"
    if name == "text_encoder_3":  # the one that Stable Diffusion 3 can do without
        again += f', or do without it: in {INDEX}, give "text_encoder_3" and "tokenizer_3" the value [null, null]'
    if not part.is_dir() or not any(part.iterdir()):
        raise DataError(f"the pipeline lacks its part '{name}'", where=part, fix=again)
    if name in WITHOUT_WEIGHTS:
        return
    if not (part / "config.json").is_file():
        raise DataError(f"the part '{name}' of the pipeline has no config.json", where=part, fix=again)
    if not any(part.glob(f"*{SAFETENSORS}")):
        if any(file.suffix in PICKLES for file in part.iterdir()):
            what = f"the part '{name}' of the pipeline has its weights only as a pickle, which can run code"
            fix = "where you trust it: load it once with diffusers and write it with save_pretrained"
            raise DataError(what, where=part, fix=f"{fix}, which makes safetensors")
        raise DataError(f"the part '{name}' of the pipeline has no weights", where=part, fix=again)
    _require_shards(part, again)


def _require_shards(part: Path, again: str) -> None:
    """Raises DataError if weights are in several files and one is missing."""
    for file in part.glob(f"*{SAFETENSORS}.index*.json"):
        content = storage.read_json(file)
        found = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(found, dict) or not all(isinstance(shard, str) for shard in found.values()):
            raise DataError("this file does not say which weights lie where", where=file, fix=again)
        shards = set(found.values())
        missing = sorted(shard for shard in shards if not (part / Path(shard).name).is_file())
        if missing:
            what = f"{len(missing)} of {len(shards)} files of weights are missing: {', '.join(missing[:3])}"
            raise DataError(what, where=part, fix=again)


@dataclass(frozen=True)
class BaseFile:
    """A file of the pipeline: its path in the folder, size in bytes, time of change in ns, and hash."""

    name: str
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class BaseModel:
    """A pretrained pipeline as it is recorded.

    Attributes:
        folder: Where it lies.
        name: By what it calls itself, or the folder's name.
        license: The text of its license, or the name that its card gives; empty if it states none.
        files: Those that are read.
    """

    folder: Path
    name: str
    family: str
    license: str
    files: tuple[BaseFile, ...]

    @cached_property
    def sha256(self) -> str:
        """Names all files together, wherever they lie."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name}\0{file.sha256}\n".encode())
        return digest.hexdigest()


def describe_base(folder: str | Path, known: Iterable[BaseFile] = ()) -> BaseModel:
    """Describes a pipeline; a file whose name, size and time are `known` is not hashed again. Errors: `read_layout`."""
    layout = read_layout(folder)
    hashes = {(file.name, file.size, file.mtime_ns): file.sha256 for file in known}
    files = []
    for path in _files_read(layout):
        name, status = path.relative_to(layout.folder).as_posix(), path.stat()
        key = name, status.st_size, status.st_mtime_ns
        files.append(BaseFile(*key, hashes.get(key) or storage.sha256_file(path)))
    name, license_text = name_and_license(layout.folder)
    return BaseModel(layout.folder.resolve(), name, layout.family, license_text, tuple(files))


def name_and_license(folder: Path) -> tuple[str, str]:
    """What the pipeline calls itself, or the folder's name; and its license, see `BaseModel`."""
    card = folder / "README.md"
    front = _front_matter(card) if card.is_file() else {}
    return front.get("model_name") or folder.resolve().name, _license(folder, front)


def require_same_base(base: BaseModel, folder: Path | None = None) -> Path:
    """The folder of the pipeline that a generator was made with, where its files still are the same.

    Args:
        base: As recorded.
        folder: Where else it may lie; asked only if it is not where it was.

    Raises:
        UsageError: It is not there, or another one is there.
        DataError: It is no longer whole.
    """
    here = base.folder if folder is None or (base.folder / INDEX).is_file() else folder
    if not (here / INDEX).is_file():
        what = f"the pretrained pipeline '{base.name}' that this generator needs is not there"
        raise UsageError(what, where=here, fix="put it back, or say where it lies: DIFFAUG_DIFFUSION__PIPELINE=FOLDER")
    recorded = {file.name: file for file in base.files}
    found = {path.relative_to(here).as_posix(): path for path in _files_read(read_layout(here))}
    for name in sorted({*recorded, *found}):
        if name in recorded and name in found and _is_same(found[name], recorded[name]):
            continue
        what = f"the pretrained pipeline '{base.name}' is not the one that this generator was made with"
        first = "put the earlier file back" if name in recorded else "take this file away, which was added"
        raise UsageError(what, where=here / name, fix=f"{first}, or train the generator again with --overwrite")
    return here


def _is_same(path: Path, file: BaseFile) -> bool:
    status = path.stat()
    if status.st_size != file.size:
        return False
    return status.st_mtime_ns == file.mtime_ns or storage.sha256_file(path) == file.sha256


def _files_read(layout: Layout) -> Iterator[Path]:
    """The files of all parts but pickles, and the index, sorted."""
    yield layout.folder / INDEX
    for part in sorted(layout.parts):
        for path in sorted((layout.folder / part).rglob("*")):
            if path.is_file() and path.suffix not in PICKLES and not path.name.startswith("."):
                yield path


def _license(folder: Path, front: dict[str, str]) -> str:
    for pattern in ("LICENSE*", "LICENCE*", "License*", "license*"):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                return path.read_text(encoding="utf-8", errors="replace").strip()[:LONGEST_LICENSE]
    return front.get("license_name") or front.get("license") or ""


def _front_matter(card: Path) -> dict[str, str]:
    """The plain entries at the head of a model card, between two lines of dashes."""
    text = card.read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    entries = re.findall(r"^(\w+):[ \t]*(\S.*?)\s*$", head[1], re.MULTILINE) if head else []
    return {key: value.strip("\"'") for key, value in entries}
