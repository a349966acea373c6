import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.network.unet import NetworkConfig, UNet
from diffaug.diffusion.planning import planning
from diffaug.diffusion.planning.memory import COPIES_OF_WEIGHTS, training_bytes


def bytes_kept_per_image(config: NetworkConfig) -> float:
    """What autograd really keeps, without the weights."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode():
        network = UNet(config)
        x, conditions = torch.zeros(4, config.channels, *config.image_size), torch.zeros(4, config.conditions)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x, torch.zeros(4), torch.zeros(4, dtype=torch.int64), conditions)
        weights = sum(parameter.untyped_storage().nbytes() for parameter in network.parameters())
    return (sum(kept.values()) - weights) / 4


@pytest.mark.e2e
@pytest.mark.parametrize(("preset", "size"), [("tiny", 128), ("small", 64), ("small", 256), ("large", 64)])
def test_memory_is_estimated_within_a_quarter_of_what_is_kept(preset, size: int) -> None:
    shown = LabeledImages(np.zeros((4, size, size, 3), np.uint8), np.zeros(4, np.int64), ("a", "b"), ("",) * 4)
    config = planning.make_plan(shown, DiffusionSettings(preset=preset), "cpu").network
    weights = training_bytes(config, 0)
    assert training_bytes(config, 1) - weights == pytest.approx(bytes_kept_per_image(config), rel=0.25)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in UNet(config).parameters())
    assert weights == 4 * COPIES_OF_WEIGHTS * parameters
