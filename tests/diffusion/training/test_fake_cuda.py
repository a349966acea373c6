"""Training and sampling on a fake CUDA device: what it refuses and what is copied is seen, but no values."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator import pixels as artifact
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.planning.planning import Plan, make_plan, set_length
from diffaug.diffusion.process.ddpm import Ddpm
from diffaug.diffusion.sampling import drawing
from diffaug.diffusion.sampling.samplers import SOLVERS
from diffaug.diffusion.training import batches, monitor, training
from diffaug.diffusion.training.batches import Holdout, TrainingData, draw_batch
from diffaug.diffusion.training.monitor import MemorizationMonitor
from diffaug.diffusion.training.training import TrainingState, new_state
from diffaug.runtime import seeding
from diffaug.runtime.distributed import ALONE

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:Accessing the data pointer")]

IMAGES = LabeledImages(
    np.random.default_rng(0).integers(0, 256, (12, 9, 14, 3), np.uint8), np.arange(12) % 2, ("a", "b"), ("",) * 12
)


class CudaGenerator(torch.Generator):
    """A CPU's random numbers that say they are a GPU's."""

    device = torch.device("cuda", 0)


class Waits(TorchDispatchMode):
    """Notes copies between devices that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result, name = func(*args, **kwargs), str(func)
        if name.startswith(("aten._to_copy", "aten.copy_")):
            source = args[1] if "copy_." in name else args[0]
            waits = not (kwargs.get("non_blocking") or args[2:] == (True,)) or result.device.type == "cpu"
            if source.device.type != result.device.type and waits:
                self.found.append(f"{name} {tuple(source.shape)} {source.device} -> {result.device}")
        if name.startswith(("aten._local_scalar_dense", "aten.nonzero")) and args[0].is_cuda:
            self.found.append(name)
        return result


def really(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with values even where tensors are fake."""

    def computed(*args: Any, **options: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **options)

    return computed


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A block of fake tensors on a GPU with bfloat16; modules made in it stay where they are made."""
    plain = seeding.torch_generator

    def drawn(*args: Any, device: str = "cpu") -> torch.Generator:
        return CudaGenerator() if device == "cuda" else plain(*args, device=device)

    monkeypatch.setattr(seeding, "torch_generator", drawn)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: None)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 1.0)  # a noise level at which guidance acts
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: 1)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: np.zeros(self.shape, np.uint8))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Ddpm, "__deepcopy__", lambda self, memo: self, raising=False)
    monkeypatch.setattr(batches, "free_bytes", lambda device: 10**9)
    for module in (artifact, monitor):
        monkeypatch.setattr(module, "karras_sigmas", really(module.karras_sigmas))
    monkeypatch.setattr(drawing, "resampled", really(drawing.resampled))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def begun(**changes: Any) -> tuple[Plan, TrainingState, TrainingData]:
    options = {"images_seen": 16, "batch_size": 4, "preset": "tiny", "augmentation": 0.5, "horizontal_flip": True}
    settings = DiffusionSettings.model_validate({**options, **changes})
    plan = set_length(make_plan(IMAGES, settings, "cuda"), settings, 12)
    with torch.device("cuda"):
        state = new_state(plan, "cuda", 0)
    return plan, state, TrainingData.of(IMAGES, "cuda")


BFLOAT16, DDPM = {"precision": "bfloat16"}, {"objective": "ddpm"}


@pytest.mark.parametrize(("changes", "room"), [({}, 10**9), ({}, 0), (DDPM, 10**9), (DDPM | BFLOAT16, 0)], ids=str)
def test_a_training_step_runs_and_never_waits(cuda, monkeypatch, changes: dict[str, str], room: int) -> None:
    monkeypatch.setattr(batches, "free_bytes", lambda device: room)
    plan, state, data = begun(**changes)
    assert plan.precision == changes.get("precision", "float32" if "objective" in changes else "bfloat16")
    assert (data.pixels.is_cuda, data.is_on_device) == (bool(room), bool(room))
    gradients = training._Gradients(state, plan, ALONE, 0)
    if isinstance(state.denoiser.objective, Ddpm):
        state.denoiser.objective._on(data.device)  # the first step copies its tables
    with Waits() as waits:
        for step in range(2):
            batch = draw_batch(data, plan, 0, step)
            assert {column.device for column in batch if column is not None} == {torch.device("cuda", 0)}
            assert gradients.compute(batch).device.type == "cuda"
            training._update(state, 0.9)
    assert waits.found == []


PIXELS, MASKS = IMAGES.pixels[:2], np.arange(2 * 9 * 14).reshape(2, 9, 14) % 2 == 0
WAYS: tuple[Callable[..., Any], ...] = (
    *(partial(PixelGenerator.sample, solver=solver) for solver in SOLVERS),
    partial(PixelGenerator.sample, guidance_scale=2.0),
    partial(PixelGenerator.sample, guidance_method="autoguidance", guidance_scale=2.0),
    partial(PixelGenerator.variations, images=PIXELS, strength=0.5, solver="ancestral"),
    partial(PixelGenerator.inpaint, images=PIXELS, masks=MASKS, resamplings=1, guidance_scale=2.0),
)


@pytest.mark.parametrize(("objective", "precision"), [("edm", "bfloat16"), ("ddpm", "float32")])
def test_every_way_of_sampling_runs(cuda, objective: str, precision: str) -> None:
    _, state, data = begun(objective=objective)
    generator = PixelGenerator(
        classes=IMAGES.classes,
        weights_sha256="",
        denoiser=state.averaged,
        normalization=data.normalization,
        guide=state.averaged,
    )
    for way in WAYS:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            assert way(generator, label=0, indices=range(2), num_inference_steps=3).shape == (2, 9, 14, 3), way


@pytest.mark.parametrize("room", [10**9, 0], ids=["images on the GPU", "images on the CPU"])
def test_the_monitor_checks_images_wherever_they_lie(cuda, monkeypatch, room: int) -> None:
    monkeypatch.setattr(batches, "free_bytes", lambda device: room)
    plan, state, data = begun()
    holdout = Holdout(IMAGES, IMAGES.select(np.arange(4)), np.arange(12))
    checking = MemorizationMonitor.of(data, holdout, 4, 0, mirrored=True, precision=plan.precision)
    with torch.autocast("cuda", torch.bfloat16):
        made = checking._sample(state.averaged, checking._labels(0, 4), 0)
        errors = checking._errors(state.averaged, checking.held)
    assert {checking.features.device.type, made.device.type, errors.device.type} == {"cuda"}
