import dataclasses

import numpy as np
import pytest
import torch

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages, UnlabeledImages
from diffaug.diffusion.latent.cache import LatentCache
from diffaug.diffusion.latent.codec import Codec
from diffaug.diffusion.latent.data import LatentData
from diffaug.diffusion.planning.planning import make_plan, set_length
from diffaug.diffusion.process.process import SIGMA_DATA
from diffaug.diffusion.training.batches import Holdout, UnlabeledPart, draw_batch
from diffaug.diffusion.training.monitor import MemorizationMonitor
from tests.diffusion.latent.autoencoders import squares

COUNT = 40
IMAGES = LabeledImages(
    squares(COUNT), np.arange(COUNT, dtype=np.int64) % 2, ("even", "odd"), tuple(map(str, range(COUNT)))
)


@pytest.fixture
def caches(exact, kl, tmp_path) -> dict[str, LatentCache]:
    made = {"exact": exact, "kl": kl}
    return {name: LatentCache.of(Codec(one, (8, 8), 3), name.ljust(64), tmp_path) for name, one in made.items()}


@pytest.mark.parametrize("name", ["exact", "kl"])
def test_latents_are_normalized_per_channel(caches, name) -> None:
    data = LatentData.encode(IMAGES, "cpu", caches[name])
    drawn = torch.cat([data.clean_images(torch.arange(COUNT), None, 0, step) for step in range(60)])
    assert drawn.shape[1:] == data.shape
    assert torch.allclose(drawn.mean(dim=(0, 2, 3)), torch.zeros(data.shape[0]), atol=0.02)
    assert torch.allclose(drawn.std(dim=(0, 2, 3)), torch.full((data.shape[0],), SIGMA_DATA), rtol=0.05)


def test_each_step_draws_from_the_distribution_of_each_image(caches) -> None:
    data, chosen = LatentData.encode(IMAGES, "cpu", caches["kl"]), torch.tensor([3, 3, 8])
    mean, log_variance = caches["kl"].codec.encode(IMAGES.pixels[[3, 3, 8]])
    scale = SIGMA_DATA / torch.tensor(data.latent_normalization.std)[:, None, None]
    drawn = torch.stack([data.clean_images(chosen, None, 0, step) for step in range(2000)])
    centered = drawn - data.latent_normalization.normalize(mean)
    deviation = (log_variance / 2).exp() * scale
    assert (centered.mean(dim=0).abs() < 5 * deviation / 2000**0.5 + 2e-3).all()
    assert torch.allclose(centered.std(dim=0), deviation, rtol=0.12, atol=1e-3)
    assert torch.equal(drawn[7], data.clean_images(chosen, None, 0, 7))
    assert not torch.equal(drawn[7][0], drawn[7][1])  # one image twice in a batch is drawn twice


def test_a_mirrored_image_is_encoded_mirrored(caches) -> None:
    data = LatentData.encode(IMAGES, "cpu", caches["kl"], mirrored=True)
    still = dataclasses.replace(
        data, latents=data.latents._replace(log_variance=None), mirrored=data.mirrored._replace(log_variance=None)
    )
    seen = still.clean_images(torch.tensor([4, 4]), torch.tensor([False, True]), 0, 0)
    mirrored = np.ascontiguousarray(IMAGES.pixels[[4, 4]])
    mirrored[1] = mirrored[1][:, ::-1]
    assert torch.allclose(seen, data.to_network(torch.from_numpy(mirrored)), atol=1e-3)
    assert not torch.allclose(seen[1], seen[0].flip(-1), atol=1e-2)


def test_pixels_go_to_the_network_and_back(caches) -> None:
    data = LatentData.encode(IMAGES, "cpu", caches["exact"])
    decoded = data.to_pixels(data.to_network(torch.from_numpy(squares(3, seed=5))))
    assert np.abs(decoded.pixels.astype(int) - squares(3, seed=5)).max() <= 1  # kept in half precision


def test_unlabeled_images_are_encoded_but_do_not_normalize(caches) -> None:
    others = UnlabeledImages(np.zeros((10, 8, 8, 3), np.uint8), tuple("abcdefghij"), np.ones(10))
    part = UnlabeledPart(others, 0.2)
    alone, both = (LatentData.encode(IMAGES, "cpu", caches["exact"], unlabeled=one) for one in (None, part))
    assert len(both.latents.mean) == COUNT + 10
    assert both.latent_normalization == alone.latent_normalization
    plan = make_plan(IMAGES, DiffusionSettings(images_seen=64, batch_size=64), "cpu", base_channels=16)
    network = dataclasses.replace(plan.network, image_size=(4, 4), conditions=0)
    batch = draw_batch(both, dataclasses.replace(plan, unet=network), 0, 0)
    black = (batch.x0 == both.to_network(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))).flatten(1).all(dim=1)
    assert (batch.labels[black] == 2).all()
    assert 3 < black.sum() < 25


def test_copies_are_found_among_latents(caches) -> None:
    data = LatentData.encode(IMAGES, "cpu", caches["exact"])
    held = dataclasses.replace(IMAGES, pixels=squares(COUNT, seed=9))
    holdout = Holdout(IMAGES, held, np.arange(COUNT))
    settings = DiffusionSettings(images_seen=64, batch_size=8)
    plan = set_length(make_plan(IMAGES, settings, "cpu", base_channels=16), settings, COUNT)
    monitor = MemorizationMonitor.of(data, holdout, 8, 0, mirrored=False, precision=plan.precision)
    known = {label: data.to_network(torch.from_numpy(IMAGES.pixels[IMAGES.labels == label])) for label in (0, 1)}

    class Repeating(torch.nn.Module):
        """Denoises to the nearest trained image of the label, or to new images."""

        def __init__(self, new: bool) -> None:
            super().__init__()
            self.new = new

        def forward(self, x, sigma, labels):
            from diffaug.diffusion.process.process import Moments

            pools = {label: torch.randn_like(one) / 2 if self.new else one for label, one in known.items()}
            nearest = [
                pools[int(label)][(pools[int(label)] - one).square().sum((1, 2, 3)).argmin()]
                for one, label in zip(x, labels, strict=True)
            ]
            return Moments(torch.stack(nearest), torch.zeros_like(x))

    torch.manual_seed(0)
    copying, creating = (monitor.check(Repeating(new), 1) for new in (False, True))
    assert copying.copying
    assert copying.copies.value > 0.9
    assert not creating.copying
