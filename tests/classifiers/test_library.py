import pickle
import socket
import sys
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.identity import identity_of
from diffaug.classifiers.library import (
    QUICK_UPDATES,
    PreparedNetwork,
    backbone_by_name,
    classifier_by_name,
    last_layer,
    read_weights,
    recipe_from_settings,
    sum_input_channels,
)
from diffaug.classifiers.networks import ResidualBlock, resnet_32, small_cnn
from diffaug.classifiers.training_set import TrainingRecipe, default_updates
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.errors import MissingExtraError, UsageError
from diffaug.runtime.seeding import torch_global_seed

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_resnet_32_has_the_parameters_of_the_paper():
    def convolution(inputs, outputs):
        return 9 * inputs * outputs + 2 * outputs  # and batch normalization

    stages = sum(convolution(a, b) + 9 * convolution(b, b) for a, b in [(16, 16), (16, 32), (32, 64)])
    expected = convolution(3, 16) + stages + 64 * 10 + 10
    model = resnet_32(3, 10, (32, 32))
    assert sum(map(torch.numel, model.parameters())) == expected == 464_154  # 0.46 M in table 6
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) + 1 == 32


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 20), (64, 64)])
def test_resnet_32_takes_any_size(size, channels):
    with torch.inference_mode():
        assert resnet_32(channels, 7, size).eval()(torch.zeros(2, channels, *size)).shape == (2, 7)


def test_a_shortcut_takes_every_second_pixel_and_leaves_new_channels_empty():
    block = ResidualBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.residual[-1].weight)  # of the last normalization: the residual is zero
    images = torch.rand(1, 2, 6, 6)
    output = block(images)
    assert torch.equal(output[:, 1:3], images[:, :, ::2, ::2])
    assert not output[:, [0, 3]].any()


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [("resnet10t", (28, 20), (28, 20)), ("resnet10t", (8, 10), (16, 20)), ("test_vit", (28, 20), (160, 160))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_timms_networks_take_small_and_gray_images(name, size, expected, channels):
    model = backbone_by_name(f"timm/{name}")(channels, 5, size)
    assert model.size == expected
    logits = model.train()(torch.rand(2, channels, *size) * 2 - 1)
    assert logits.shape == (2, 5)
    logits.sum().backward()


def test_a_size_that_a_network_cannot_process_is_an_error_before_training(monkeypatch):
    made = nn.Sequential(nn.Flatten(), nn.Linear(7, 2))
    made.pretrained_cfg = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: made)
    with pytest.raises(UsageError, match="can't process images of 20 x 24 px"):
        backbone_by_name("timm/resnet18")(1, 2, (20, 24))


def test_a_gray_image_is_to_the_network_what_it_was_in_rgb():
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3).eval()
    gray = torch.rand(2, 1, 32, 32)
    expected = model(gray.expand(-1, 3, -1, -1))
    sum_input_channels(model)
    torch.testing.assert_close(model(gray), expected)
    with pytest.raises(UsageError, match="no convolution of RGB"):
        sum_input_channels(model)


def test_pretrained_networks_see_images_normalized_as_in_their_training():
    images = torch.rand(4, 3, 8, 8)
    expected = (images - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    prepared = PreparedNetwork(nn.Identity(), (8, 8), 3, (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(prepared(images * 2 - 1), expected)
    assert torch.equal(PreparedNetwork(nn.Identity(), (8, 8), 3)(images), images)
    assert prepared.state_dict() == {}


def seeded(name, num_classes, channels=3, seed=0, weights=None, size=(16, 16)):
    with torch_global_seed(seed, "test"):
        return backbone_by_name(name, weights)(channels, num_classes, size)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("name", ["small-cnn", "timm/resnet10t"])
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


def test_rgb_weights_serve_gray_images(tmp_path):
    source = seeded("timm/resnet10t", 4, seed=1).network.eval()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = seeded("timm/resnet10t", 4, channels=1, weights=tmp_path / "w.safetensors").eval()
    gray = torch.rand(2, 1, 16, 16) * 2 - 1
    normalized = ((gray + 1) / 2 - sum(IMAGENET_MEAN) / 3) / (sum(IMAGENET_STD) / 3)
    torch.testing.assert_close(model(gray), source(normalized.expand(-1, 3, -1, -1)))


def test_weights_that_are_missing_or_of_another_network_are_an_error(tmp_path):
    file = tmp_path / "weights.safetensors"
    with pytest.raises(UsageError, match="does not exist"):
        backbone_by_name("small-cnn", file)  # before anything is built
    for other in (seeded("resnet-32", 4), seeded("small-cnn", 4, channels=1)):
        save_file(other.state_dict(), file)
        with pytest.raises(UsageError, match="belongs to another network") as error:
            seeded("small-cnn", 4, weights=file)
        assert str(file) in str(error.value)


class Evil:
    def __reduce__(self):
        return (socket.gethostname, ())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights", pickle.dumps(Evil()), pickle.dumps([1, 2]), {"epoch": 3}, [torch.zeros(1)]]
)
def test_files_of_anything_else_are_an_error_and_run_nothing(tmp_path, suffix, content):
    file = tmp_path / f"weights.{suffix}"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UsageError, match="state_dict") as error:
        read_weights(file)
    assert str(file) in str(error.value)


NEAR = {"smallcnn": "small-cnn", "timm/resnet19": "timm/resnet18", "torchvision/resnet18": "timm/resnet18"}


@pytest.mark.parametrize(("name", "near"), [*NEAR.items(), ("os.system", ""), ("timm/", "")])
def test_an_unknown_name_is_an_error_that_lists_near_ones(name, near):
    with pytest.raises(UsageError) as error:
        backbone_by_name(name)
    assert f"unknown classifier '{name}'" in str(error.value)
    assert near in str(error.value).partition("did you mean")[2]


def test_a_missing_timm_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="timm is not installed") as error:
        backbone_by_name("timm/resnet18")
    assert error.value.fix == "pip install 'diffaug[networks]'"


def test_the_last_layer_is_linear_or_a_convolution():
    linear, convolution = nn.Linear(2, 2), nn.Conv2d(2, 2, 1)
    assert last_layer(nn.Sequential(linear, convolution)) is linear
    assert last_layer(nn.Sequential(convolution, nn.ReLU())) is convolution
    with pytest.raises(UsageError, match="no linear layer"):
        last_layer(nn.ReLU())


def test_settings_name_the_classifier_and_the_recipe():
    settings = EvaluationSettings(classifier="resnet-32", optimizer="sgd", horizontal_flip=True)
    classifier = classifier_by_name(settings)
    assert classifier == NetworkClassifier(resnet_32, "resnet-32")
    recipe = recipe_from_settings(settings, 500)
    assert recipe.updates == default_updates(500)
    assert (recipe.optimizer, recipe.horizontal_flip) == ("sgd", True)
    assert recipe_from_settings(EvaluationSettings(max_steps=7), 500) == TrainingRecipe(7)
    quick = EvaluationSettings(quick=True)
    assert recipe_from_settings(quick, 500).updates == QUICK_UPDATES < default_updates(500)
    assert recipe_from_settings(quick.model_copy(update={"max_steps": 700}), 500).updates == 700


def test_weights_are_part_of_the_name(tmp_path):
    names = {"small-cnn"}
    for seed in range(2):
        torch.manual_seed(seed)
        file = tmp_path / "weights.safetensors"
        save_file(small_cnn(1, 3, (8, 8)).state_dict(), file)
        names.add(classifier_by_name(EvaluationSettings(checkpoint=str(file))).name)
    assert len(names) == 3


def test_a_factory_of_the_users_is_named_by_its_source():
    class Factory:
        def __call__(self, *given):
            return small_cnn(*given)

    names = [NetworkClassifier.of_factory(factory).name for factory in (small_cnn, small_cnn, resnet_32, Factory())]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("small_cnn ")
    assert "Factory " in names[3]
    assert len({identity_of(partial(small_cnn, channels)) for channels in (1, 1, 3)}) == 2


def test_functions_without_source_are_distinguished_by_their_code():
    def compiled(text):
        names = {}
        exec(text, names)
        return identity_of(names["train"])

    first = "def train(data):\n    return [step for step in range(3) if step in {'a', 'b'}]"
    assert compiled(first) == compiled(first)
    changes = [("3", "4"), ("'b'", "'c'"), ("range", "list")]
    assert len({compiled(first), *(compiled(first.replace(*change)) for change in changes)}) == 4
