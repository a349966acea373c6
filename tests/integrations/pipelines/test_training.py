"""Fine-tuning an adapter on a few latents."""

import numpy as np
import pytest
import torch

from diffaug.diffusion.planning.planning import Plan
from diffaug.errors import DamagedError
from diffaug.integrations.pipelines.adapter import LORA, Adapter
from diffaug.integrations.pipelines.denoising import NO_PROMPT
from diffaug.integrations.pipelines.fitting.run import usual_prompts
from diffaug.integrations.pipelines.fitting.training import (
    FineTuning,
    TrainingLatents,
    restore_latest,
    save_checkpoint,
)
from diffaug.integrations.pipelines.loading import load_pipeline
from diffaug.integrations.pipelines.prompts import prompts_from

pytest.importorskip("peft")
pytestmark = pytest.mark.e2e
QUICK = ("sd", "dit")
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "sd3", "flux", "pixart"))]
CLASSES = ("cat", "big_dog")


@pytest.fixture
def begin(base_of):
    def make(family, *, template="a photo of a {token}", batch_size=4, rate=1e-2):
        loaded = load_pipeline(base_of(family), "cpu")
        prompts = usual_prompts(loaded, CLASSES) if family == "dit" else prompts_from(template, CLASSES, {})
        adapter = Adapter.install(loaded, CLASSES, rank=2, tokens=prompts.use_tokens)
        channels = loaded.vae.config.latent_channels
        means = 0.1 * torch.randn(6, channels, 8, 8, generator=torch.Generator().manual_seed(0))
        labels = np.array([0, 0, 1, 1, 1, -1])
        latents = TrainingLatents(
            means.half(), torch.full_like(means, 0.05).half(), tuple("abcdef"), labels, np.full(6, 1 / 6), np.ones(6)
        )
        plan = Plan((8, 8), 3, None, batch_size, rate, 100, images_seen=10 * batch_size)
        return FineTuning(loaded, adapter, latents, prompts, plan, seed=0)

    return make


def values(state):
    return {name: one.detach().clone() for name, one in state.adapter.parameters.items()}


@pytest.mark.parametrize("family", ALL)
def test_a_training_that_was_killed_ends_in_the_same_adapter(family, begin, tmp_path):
    whole = begin(family)
    first = values(whole)
    for _ in range(4):
        whole.take_step()
    part = begin(family)
    for _ in range(2):
        part.take_step()
    save_checkpoint(tmp_path, part)
    resumed = begin(family)
    assert restore_latest(tmp_path, resumed) == (2, [])
    for _ in range(2):
        resumed.take_step()
    wanted, found = values(whole), values(resumed)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    changed = [name for name in wanted if not torch.equal(wanted[name], first[name])]
    assert len(changed) >= len(wanted) - 2  # a layer of Stable Diffusion 3 comes after all that is used
    assert set(whole.adapter.learned) <= set(changed)


def test_the_frozen_pipeline_stays_as_it_is(begin):
    state = begin("sd")
    frozen = {n: p.clone() for n, p in state.loaded.network.named_parameters() if ".lora_" not in n}
    state.take_step()
    now = dict(state.loaded.network.named_parameters())
    assert all(torch.equal(now[name], one) for name, one in frozen.items())


def test_the_loss_of_a_batch_that_is_seen_again_and_again_falls(begin, monkeypatch):
    state = begin("sd", rate=1e-2)
    batch = state.batch_of(0)
    monkeypatch.setattr(state, "batch_of", lambda step: batch)
    losses = [state.take_step() for _ in range(10)]
    assert losses[-1] < losses[0]


def test_prompts_are_hidden_at_times_and_always_where_there_is_no_label(begin):
    state = begin("sd", batch_size=64)
    batch = state.batch_of(0)
    known = {prompt for own in state.prompts.by_class.values() for prompt in own}
    assert set(batch.prompts) == known | {NO_PROMPT}
    places = [i for i, label in enumerate(state.latents.labels) if label == -1]
    assert all(state._prompt(place, 0, hidden=False) == NO_PROMPT for place in places)
    again = state.batch_of(0)
    assert again.prompts == batch.prompts
    assert torch.equal(again.x0, batch.x0)


def test_short_memory_takes_the_batch_in_parts(begin, monkeypatch):
    wanted = begin("sd")
    wanted.take_step()
    state, backward = begin("sd"), FineTuning._backward

    def short(self, batch):
        if self.micro_batches < 4:
            raise torch.OutOfMemoryError("injected")
        return backward(self, batch)

    monkeypatch.setattr(FineTuning, "_backward", short)
    state.take_step()
    assert state.micro_batches == 4
    for name, one in values(wanted).items():
        torch.testing.assert_close(values(state)[name], one, rtol=1e-2, atol=2e-3)


def test_a_gradient_that_is_not_finite_changes_nothing(begin):
    state = begin("sd")
    before = values(state)
    state.latents.means.fill_(torch.nan)
    state.take_step()
    assert (state.step, state.skipped) == (1, 1)
    assert all(torch.equal(before[name], one) for name, one in values(state).items())


def test_an_adapter_is_read_back_and_one_of_another_shape_is_damaged(begin, tmp_path):
    state = begin("sd")
    state.take_step()
    state.adapter.write(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors"}
    other = begin("sd")
    other.adapter.read(tmp_path)
    assert all(torch.equal(values(state)[name], one) for name, one in values(other).items())
    loaded = load_pipeline(state.loaded.layout.folder, "cpu")
    with pytest.raises(DamagedError, match="another shape"):
        Adapter.install(loaded, CLASSES, rank=3, tokens=True).read(tmp_path)


@pytest.mark.parametrize("family", ["sd", *(pytest.param(one, marks=pytest.mark.slow) for one in ("sd3", "flux"))])
def test_diffusers_reads_the_lora_file(family, begin, base_of, tmp_path):
    from diffusers import DiffusionPipeline

    state = begin(family, template="{class}")
    state.take_step()
    state.adapter.write(tmp_path)
    pipe = DiffusionPipeline.from_pretrained(base_of(family), local_files_only=True)
    pipe.load_lora_weights(tmp_path, weight_name=LORA, local_files_only=True)
    network = pipe.unet if family == "sd" else pipe.transformer
    theirs = {n.replace("default_0", "default"): p for n, p in network.named_parameters() if ".lora_" in n}
    assert theirs.keys() == state.adapter.lora.keys()
    assert all(torch.equal(theirs[name], one) for name, one in state.adapter.lora.items())
