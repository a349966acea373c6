import numpy as np
import pytest
import torch
from torch import Tensor

from diffaug.data.images import LabeledImages
from diffaug.data.resize import boxes_of
from diffaug.diffusion.generator.network_files import for_inference
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.diffusion.sampling.framing import Framing
from diffaug.diffusion.sampling.samplers import SOLVERS, integrate
from diffaug.diffusion.training.augmentation import augment
from diffaug.diffusion.training.batches import TrainingData, draw_batch
from diffaug.diffusion.training.training import new_state, train

CPU, FRAME = torch.device("cpu"), (8, 6)
BOXES = np.array([[8, 2], [4, 6], [8, 6]])


@pytest.mark.parametrize("solver", SOLVERS)
def test_inside_of_the_box_the_exact_denoiser_is_sampled_and_outside_nothing(solver: str) -> None:
    mean, variance = 0.3, 0.04
    seen: list[Tensor] = []

    def exact(x: Tensor, sigma: Tensor) -> Moments:  # of independent Gaussian pixels
        seen.append(x)
        gain = variance / (variance + float(sigma) ** 2)
        return Moments(mean + gain * (x - mean), torch.full_like(x, gain * float(sigma) ** 2))

    boxes = np.repeat(BOXES, 200, axis=0)
    framing = Framing(boxes, FRAME, CPU)
    noises = torch.Generator().manual_seed(0)
    start = 80 * torch.randn(600, 1, *FRAME, generator=noises)
    made = integrate(
        framing.inside(exact), start, karras_sigmas(24), SOLVERS[solver],
        lambda step: torch.randn(start.shape, generator=noises),
    )  # fmt: skip
    assert framing.masks is not None
    assert all((x[~framing.masks] == 0).all() for x in seen)
    assert (made[~framing.masks] == 0).all()
    inside = made[framing.masks]
    assert inside.mean().item() == pytest.approx(mean, abs=0.01)
    assert inside.var().item() == pytest.approx(variance, rel=0.25)


def test_what_leaves_fills_the_frame_and_what_has_no_boxes_stays() -> None:
    framing = Framing(BOXES, FRAME, CPU)
    flat = np.full((3, *FRAME, 1), 200, np.uint8)
    assert framing.masks is not None
    padded = np.where(np.moveaxis(framing.masks.numpy(), 1, 3), flat, 0).astype(np.uint8)
    assert (framing.squeezed(Decoded(padded, np.ones(3, bool))).pixels == 200).all()
    assert Framing(None, FRAME, CPU).squeezed(Decoded(padded, np.ones(3, bool))).pixels is padded
    masks = np.zeros((3, *FRAME), bool)
    masks[:, 2:4] = True
    boxed = framing.boxed_masks(masks)
    assert torch.equal(boxed & framing.masks, boxed)
    assert torch.equal(boxed[2, 0], torch.from_numpy(masks[2]))
    assert boxed[1, 0].any(dim=1).tolist() == [False] * 3 + [True] + [False] * 4 or boxed[1].sum() >= 6


def test_augmented_images_mirror_at_their_box() -> None:
    boxes = torch.from_numpy(BOXES)
    levels = torch.tensor([0.2, -0.4, 0.9])[:, None, None, None]
    outside = ~Framing(BOXES, FRAME, CPU).masks  # type: ignore[operator]
    frames = torch.where(outside, levels, levels.expand(3, 1, *FRAME))
    for seed in range(5):
        warped, _ = augment(frames, 1.0, torch.Generator().manual_seed(seed), flips=True, boxes=boxes)
        torch.testing.assert_close(warped, frames)
    whole = torch.tensor([FRAME] * 3)
    texture = torch.randn(3, 1, *FRAME, generator=torch.Generator().manual_seed(0))
    plain, boxed = (
        augment(texture, 1.0, torch.Generator().manual_seed(1), flips=True, boxes=one)[0] for one in (None, whole)
    )
    torch.testing.assert_close(plain, boxed, atol=1e-4, rtol=1e-4)


def ellipses(count: int) -> LabeledImages:
    """Dark ellipses on bright ground that fill the frame; class "tall" has tall boxes, "wide" has wide ones."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    sizes = np.where(labels[:, None] == 0, [[160, 80]], [[80, 160]]) + rng.integers(-20, 20, (count, 2))
    y, x = (np.indices((16, 16)) - 7.5) / 8
    pixels = np.full((count, 16, 16, 1), 200, np.uint8)
    pixels[:, (y**2 + x**2) < 0.4] = 60
    return LabeledImages(pixels, labels, ("tall", "wide"), tuple(map(str, range(count))), boxes_of(sizes, (16, 16)))


def test_a_batch_is_zero_outside_of_the_boxes_of_its_images() -> None:
    images = ellipses(12)
    network = NetworkConfig((16, 16), 1, 2, 2, 16, (1,), 1, 0.0, 9)
    plan = Plan(network.image_size, 1, network, 8, 1e-3, 8, images_seen=8, augmentation=0.7, horizontal_flip=True)
    batch = draw_batch(TrainingData.of(images, "cpu"), plan, 0, 0)
    assert batch.masks is not None
    assert (batch.x0[~batch.masks] == 0).all()
    assert (batch.noise[~batch.masks] == 0).all()
    assert (batch.noise[batch.masks] != 0).all()
    parts = batch.split(3)
    assert [len(part.labels) for part in parts] == [3, 3, 2]
    assert torch.equal(torch.cat([part.masks for part in parts if part.masks is not None]), batch.masks)


@pytest.mark.e2e
def test_a_generator_that_learned_proportions_gives_no_padding() -> None:
    images = ellipses(64)
    network = NetworkConfig((16, 16), 1, 2, 2, 16, (1, 2), 1, 0.0, 9)
    plan = Plan(network.image_size, 1, network, 64, 4e-3, 64 * 250, images_seen=64 * 250)
    state, data = new_state(plan, "cpu", 0), TrainingData.of(images, "cpu")
    for _ in train(state, data, plan, 0):
        pass
    boxes = data.class_boxes(2)
    generator = PixelGenerator(
        classes=images.classes,
        weights_sha256="",
        boxes=boxes,
        denoiser=for_inference(state.averaged, "cpu"),
        normalization=data.normalization,
    )
    for label in (0, 1):
        made = generator.sample(label, range(24), seed=1)
        assert np.array_equal(made, generator.sample(label, range(24), seed=1))
        edges = np.concatenate([made[:, 0], made[:, -1], made[:, :, 0], made[:, :, -1]], axis=1).astype(float)
        middle = made[:, 7:9, 7:9].astype(float)
        assert np.abs(edges - 200).mean() < 12  # padding is the mean level, near 150
        assert np.abs(middle - 60).mean() < 20
    varied = generator.variations(images.pixels[:4], "tall", range(4), strength=0.3)
    assert np.abs(varied.astype(float) - images.pixels[:4]).mean() < 25
    masks = np.zeros((4, 16, 16), bool)
    masks[:, :5] = True
    filled = generator.inpaint(images.pixels[:4], masks, "tall", range(4), resamplings=1)
    assert np.array_equal(filled[:, 5:], images.pixels[:4, 5:])
    assert np.abs(filled[:, 0].astype(float) - 200).mean() < 25
    assert isinstance(boxes, ClassBoxes)
