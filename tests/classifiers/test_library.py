"""Networks have the size that they are known for, take small and grey images, and begin with given weights."""

from __future__ import annotations

import pickle
import socket
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from diffaug.classifiers.encoders import IMAGENET_MEAN, IMAGENET_STD
from diffaug.classifiers.fit import small_cnn
from diffaug.classifiers.library import (
    LibraryBackbone,
    PreparedNetwork,
    ResidualBlock,
    backbone_of,
    least_size,
    resnet_32,
    take_grey,
)
from diffaug.classifiers.weights import last_layer, read_weights
from diffaug.errors import MissingExtraError, UsageError
from diffaug.runtime.seeding import torch_global_seed


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_resnet_32_has_the_parameters_of_the_paper():
    def convolution(inputs, outputs):
        return 9 * inputs * outputs + 2 * outputs  # and batch normalisation

    stages = sum(convolution(a, b) + 9 * convolution(b, b) for a, b in [(16, 16), (16, 32), (32, 64)])
    expected = convolution(3, 16) + stages + 64 * 10 + 10
    assert parameters(resnet_32(3, 10, (32, 32))) == expected == 464_154  # 0.46 M in table 6
    convolutions = [layer for layer in resnet_32(3, 10, (32, 32)).modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) + 1 == 32


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 20), (64, 64)])
def test_resnet_32_takes_any_size(size, channels):
    with torch.inference_mode():
        assert resnet_32(channels, 7, size).eval()(torch.zeros(2, channels, *size)).shape == (2, 7)


def test_a_shortcut_takes_every_second_pixel_and_leaves_new_channels_empty():
    block = ResidualBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.residual[2][1].weight)  # of the last normalisation: the residual is zero
    images = torch.rand(1, 2, 6, 6)
    output = block(images)
    assert torch.equal(output[:, 1:3], images[:, :, ::2, ::2])
    assert not output[:, [0, 3]].any()


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("squeezenet1_1", (28, 20), (28, 20)),
        ("resnet18", (8, 8), (8, 8)),
        ("shufflenet_v2_x0_5", (8, 8), (8, 8)),
        ("densenet121", (28, 28), (32, 32)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvisions_models_take_small_and_grey_images(name, size, expected, channels):
    model = backbone_of(f"torchvision/{name}")(channels, 5, size)
    assert model.size == expected
    logits = model.train()(torch.rand(2, channels, *size) * 2 - 1)
    assert logits.shape == (2, 5)
    logits.sum().backward()


def test_a_network_is_given_the_next_size_that_it_can_take():
    valid = nn.Sequential(nn.Conv2d(1, 2, 11), nn.Flatten(2), nn.AdaptiveAvgPool1d(1))
    assert least_size(valid, 1, (14, 28), "x") == (14, 28)
    assert least_size(valid, 1, (7, 14), "x") == (16, 32)
    square = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 2))
    assert least_size(square, 1, (80, 90), "x") == (64, 64)
    with pytest.raises(UsageError, match="no image of up to 512 px"):
        least_size(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), 1, (8, 8), "x")


def test_a_grey_image_is_to_the_network_what_it_was_in_rgb():
    torch.manual_seed(0)
    model = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=3).eval()
    grey = torch.rand(2, 1, 32, 32)
    expected = model(grey.expand(-1, 3, -1, -1))
    take_grey(model)
    torch.testing.assert_close(model(grey), expected)
    with pytest.raises(UsageError, match="no convolution of RGB"):
        take_grey(model)


def test_trained_networks_see_images_normalised_as_imagenet_is():
    images = torch.rand(4, 3, 8, 8)
    expected = (images - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    prepared = PreparedNetwork(nn.Identity(), (8, 8), 3, imagenet=True)
    torch.testing.assert_close(prepared(images * 2 - 1), expected)
    untrained = PreparedNetwork(nn.Identity(), (8, 8), 3, imagenet=False)
    assert torch.equal(untrained(images), images)
    assert prepared.state_dict() == {}


def seeded(name, num_classes, channels=3, seed=0, weights=None, size=(16, 16)):
    with torch_global_seed(seed, "test"):
        return backbone_of(name, weights)(channels, num_classes, size)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("name", ["small-cnn", "torchvision/shufflenet_v2_x0_5"])
@pytest.mark.parametrize("num_classes", [4, 6])
def test_weights_are_taken_over_and_the_head_only_for_as_many_classes(tmp_path, name, num_classes, suffix):
    source = seeded(name, 4, seed=1)
    weights = (source.network if isinstance(source, PreparedNetwork) else source).state_dict()
    file = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(weights, file)
    else:
        torch.save({"state_dict": weights} if suffix == "pth" else weights, file)
    model = seeded(name, num_classes, weights=file)
    taken = (model.network if isinstance(model, PreparedNetwork) else model).state_dict()
    head = list(weights)[-2:]
    for key, tensor in weights.items():
        if key not in head or num_classes == 4:
            assert torch.equal(taken[key], tensor), key
    random_head = last_layer(seeded(name, num_classes)).weight
    assert torch.equal(last_layer(model).weight, random_head if num_classes == 6 else weights[head[0]])
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, num_classes)


def test_rgb_weights_serve_grey_images(tmp_path):
    source = seeded("torchvision/shufflenet_v2_x0_5", 4, seed=1).network.eval()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = seeded("torchvision/shufflenet_v2_x0_5", 4, channels=1, weights=tmp_path / "w.safetensors").eval()
    grey = torch.rand(2, 1, 16, 16) * 2 - 1
    normalised = ((grey + 1) / 2 - sum(IMAGENET_MEAN) / 3) / (sum(IMAGENET_STD) / 3)
    torch.testing.assert_close(model(grey), source(normalised.expand(-1, 3, -1, -1)))


def test_weights_of_another_network_are_an_error(tmp_path):
    file = tmp_path / "weights.safetensors"
    for other in (seeded("resnet-32", 4), seeded("small-cnn", 4, channels=1)):
        save_file(other.state_dict(), file)
        with pytest.raises(UsageError, match="of another network") as error:
            seeded("small-cnn", 4, weights=file)
        assert str(file) in str(error.value)


class Evil:
    def __reduce__(self):
        return (socket.gethostname, ())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps(Evil()), pickle.dumps([1, 2])])
def test_files_of_anything_else_are_an_error_and_run_nothing(tmp_path, suffix, content):
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_weights(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(1)]])
def test_a_checkpoint_that_is_no_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=r"state_dict"):
        read_weights(tmp_path / "weights.pt")


def test_a_missing_file_is_an_error_before_anything_is_built(tmp_path):
    with pytest.raises(UsageError, match="no file of weights"):
        backbone_of("small-cnn", tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet_32", "resnet-32"),
        ("smallcnn", "small-cnn"),
        ("torchvision/resnet19", "torchvision/resnet18"),
        ("torchvision/fasterrcnn_resnet50_fpn", ""),
        ("os.system", ""),
        ("torchvision/", ""),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_near_ones(name, near):
    with pytest.raises(UsageError) as error:
        backbone_of(name)
    assert f"no classifier {name}" in str(error.value)
    assert near in str(error.value).partition("near it are:")[2]


def test_timm_is_asked_for_when_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="pip install timm"):
        backbone_of("timm/resnet18")


def test_timms_models_are_made_without_their_weights(monkeypatch):
    asked = {}

    def create_model(name, *, pretrained, num_classes):
        asked.update(name=name, pretrained=pretrained)
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))

    timm = ModuleType("timm")
    timm.list_models, timm.create_model = lambda: ["tiny", "other"], create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert backbone_of("timm/tiny.tag")(1, 5, (8, 8))(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    assert asked == {"name": "tiny.tag", "pretrained": False}
    with pytest.raises(UsageError, match="timm/tiny"):
        backbone_of("timm/tinny")


def test_a_real_timm_model_takes_small_grey_images():
    pytest.importorskip("timm")
    assert backbone_of("timm/resnet10t")(1, 5, (8, 8)).train()(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


def test_a_backbone_travels_to_another_process(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(small_cnn(3, 4, (16, 16)).state_dict(), file)
    for backbone in (backbone_of("torchvision/resnet18"), backbone_of("small-cnn", file), backbone_of("resnet-32")):
        assert pickle.loads(pickle.dumps(backbone)) == backbone
    assert replace(LibraryBackbone("timm", "a"), name="b").name == "b"


def test_the_last_layer_is_linear_or_a_convolution():
    linear, convolution = nn.Linear(2, 2), nn.Conv2d(2, 2, 1)
    assert last_layer(nn.Sequential(linear, convolution)) is linear
    assert last_layer(nn.Sequential(convolution, nn.ReLU())) is convolution
    with pytest.raises(UsageError, match="no linear layer"):
        last_layer(nn.ReLU())
