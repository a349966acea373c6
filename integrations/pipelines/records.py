"""What a generator's folder says about the pipeline in it: `pipeline.json`, beside the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from diffaug.files import storage
from diffaug.files.records import read_record, write_record
from diffaug.integrations.pipelines.base import BaseModel
from diffaug.integrations.pipelines.frame import Frame
from diffaug.integrations.pipelines.prompts import Prompts

PIPELINE, ADAPTER = "pipeline.json", "adapter"


@dataclass(frozen=True)
class PipelineRecord:
    """The content of `pipeline.json`.

    Attributes:
        base: The pretrained pipeline.
        rank: Of the LoRA layers; 0 without.
        is_trained: Whether it was fine-tuned; else it is meant to vary real images.
    """

    base: BaseModel
    prompts: Prompts
    frame: Frame
    rank: int = 0
    is_trained: bool = True

    def fingerprint(self, folder: Path) -> str:
        """Names all that images depend on: the pretrained files, the adapter, prompts and sizes."""
        adapter = {file.name: storage.sha256_file(file) for file in sorted((folder / ADAPTER).glob("*"))}
        content = _RECORD.dump_python(self, mode="json", exclude={"base": True})
        return storage.fingerprint({**content, "base": self.base.sha256, "adapter": adapter})


_RECORD = TypeAdapter(PipelineRecord)


def write_pipeline_record(folder: Path, record: PipelineRecord) -> None:
    """Writes `pipeline.json` into a folder of the caller."""
    write_record(folder / PIPELINE, _RECORD, record)


def read_pipeline_record(folder: Path) -> PipelineRecord:
    """Reads `pipeline.json`."""
    return read_record(folder / PIPELINE, _RECORD)
