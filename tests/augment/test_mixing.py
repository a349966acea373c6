"""MixUp and CutMix against closed forms: pixels, boxes, soft labels, and both libraries on one contract."""

import json
import pickle
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from diffaug import Pool, SyntheticMix, UsageError
from diffaug.augment.transforms.mixing import REPLACED, Mixture
from diffaug.integrations import albumentations_transforms as on_arrays

CLASSES = ("cat", "dog", "empty")
SIZE = (12, 10)


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Black cats and gray dogs of 100."""
    images = [(k, np.full((6, 4, 3), 100 * k, np.uint8)) for k in (0, 1) for _ in range(3)]
    about = {"dataset_class_to_idx": {"cat": 0, "dog": 1, "empty": 2}}
    return make_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, images, about)


def white(kind: str) -> Any:
    image = np.full((*SIZE, 3), 255, np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    by_kind = {"array": image, "pil": Image.fromarray(image), "tensor": tensor, "tv": tv_tensors.Image(tensor)}
    return {**by_kind, "float": image / np.float32(255), "float tensor": tensor / 255}[kind]


def on_255(image: Any) -> Any:
    array = np.asarray(image)
    array = array.transpose(1, 2, 0) if isinstance(image, torch.Tensor) else array
    return array * (255 if array.dtype.kind == "f" else 1)


@given(st.floats(0, 1), st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2), st.tuples(*[st.integers(1, 40)] * 2))
def test_the_label_of_cutmix_is_the_area_that_is_left(kept: float, center: Any, size: Any) -> None:
    mixture = Mixture.drawn("cutmix", kept, center, size)
    mixed = mixture.apply(np.ones(size, np.float64), np.zeros(size, np.float64))
    assert mixed.mean() == pytest.approx(mixture.kept)
    middle = Mixture.drawn("cutmix", kept, (0.5, 0.5), (400, 400))  # whole, so nothing but rounding differs
    assert middle.kept == pytest.approx(kept, abs=0.006)


@pytest.mark.parametrize("kind", ["array", "pil", "tensor", "float", "float tensor"])
def test_pixels_are_the_weighted_mean_in_the_type_of_the_image(kind: str) -> None:
    image, black = white(kind), Mixture(0.0, (0.0, 0.0, 1.0, 1.0)).apply(white(kind), white(kind))
    black = Image.new("RGB", SIZE[::-1]) if kind == "pil" else black * 0
    mixed = Mixture(0.3).apply(image, black)
    assert type(mixed) is type(image)
    np.testing.assert_allclose(on_255(mixed), 76.5, atol=0.51)
    assert REPLACED.apply(image, black) is black
    cut = on_255(Mixture(0.5, (0.0, 0.5, 1.0, 1.0)).apply(image, black))
    assert (cut[:, :5] == 255).all() and not cut[:, 5:].any()
    assert (on_255(image) == 255).all()


def both(pool: Pool, **options: Any) -> list[Any]:
    """The transform of each library as a function of label to (image in [0, 255], soft label)."""
    by_torch = SyntheticMix(pool, **{"p": 1, **options})
    by_array = on_arrays.SyntheticMix(pool=pool, **{"p": 1, **options})

    def arrays(label: Any) -> tuple[Any, Any]:
        item = by_array(image=white("array"), label=label)
        return item["image"], item["label"]

    def tensors(label: Any) -> tuple[Any, Any]:
        image, soft = by_torch(white("tv"), label)
        assert isinstance(image, tv_tensors.Image)
        return on_255(image), soft.numpy()

    return [arrays, tensors]


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
@pytest.mark.parametrize(
    ("label", "partner", "own", "other"),
    [(1, None, 1, 1), ("cat", "dog", 0, 1), (2, 0, 2, 0), (0, {"cat": 1}, 0, 1), (1, {"cat": "dog"}, 1, 1)],
)
def test_label_and_pixels_are_mixed_alike(pool, method, label, partner, own, other):
    for mix in both(pool, method=method, partner_class=partner):
        kept = []
        for _ in range(8):
            image, soft = mix(label)
            assert soft.dtype == np.float32 and soft.shape == (3,) and soft.sum() == pytest.approx(1)
            share = (image.mean() - 100 * other) / (255 - 100 * other)  # of the white image
            kept.append(share)
            expected = np.zeros(3)
            expected[own] += share
            expected[other] += 1 - share
            np.testing.assert_allclose(soft, expected, atol=0.005)
            assert len(np.unique(image)) <= (1 if method == "mixup" else 2)
        assert np.std(kept) > 0.05


def test_alpha_is_that_of_the_beta_distribution(pool):
    for alpha, sd in ((1.0, 12**-0.5), (20.0, (1 / 164) ** 0.5)):  # Beta(a, a) has the variance 1 / (8 a + 4)
        for mix in both(pool, alpha=alpha, partner_class="dog"):
            drawn = [mix(0)[1][0] for _ in range(300)]
            assert np.mean(drawn) == pytest.approx(0.5, abs=0.07)
            assert np.std(drawn) == pytest.approx(sd, rel=0.2)


def test_labels_are_soft_also_where_nothing_is_mixed(pool):
    for options, label in (({"p": 0}, 1), ({}, "empty")):
        for mix in both(pool, **options):
            image, soft = mix(label)
            assert (image == 255).all()
            assert soft.tolist() == [0, float(label == 1), float(label == "empty")]
    masked = on_arrays.SyntheticMix(pool=pool, p=1, on_annotations="skip")
    assert masked(image=white("array"), mask=np.zeros(SIZE), label=0)["label"].tolist() == [1, 0, 0]
    with pytest.raises(UsageError, match="mask"):
        on_arrays.SyntheticMix(pool=pool, p=1)(image=white("array"), mask=np.zeros(SIZE), label=0)


def test_each_image_of_a_batch_is_mixed_for_itself(pool):
    images, labels = torch.full((40, 3, *SIZE), 255, dtype=torch.uint8), torch.arange(40) % 3
    mixed, soft = SyntheticMix(pool, p=0.5, partner_class="dog")(images, labels)
    assert soft.shape == (40, 3) and soft.dtype == torch.float32
    shares = (mixed.float().mean(dim=(1, 2, 3)) - 100) / 155
    assert 8 < int((shares < 1).sum()) < 32
    own = soft[torch.arange(40), labels] - torch.where(labels == 1, 1 - shares, 0.0)
    torch.testing.assert_close(own, shares, atol=0.005, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "mix"}, "mixup"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"partner_class": "horse"}, "no class 'horse'"),
        ({"partner_class": "empty"}, "no images of the partners' class 'empty'"),
        ({"partner_class": {"cat": 7}}, "no class 7"),
        ({"partner_class": "dog", "class_to_idx": {"cat": 0}}, "'dog' has no label in class_to_idx"),
        ({"class_to_idx": {"cat": 0, "horse": 1}}, "names 'horse'"),
    ],
)
def test_wrong_arguments_are_refused_when_built(pool, wrong, message):
    for build in (SyntheticMix, on_arrays.SyntheticMix):
        with pytest.raises((UsageError, ValueError), match=message):
            build(pool, **wrong)


def test_a_pool_of_a_folder_needs_the_order_of_the_classes(make_pool: Any, tmp_path: Path) -> None:
    own = make_pool(tmp_path / "pool", ("cat", "dog"), [(0, np.zeros((4, 4, 1), np.uint8))])
    with pytest.raises(UsageError, match=r"class_to_idx=dataset\.class_to_idx"):
        SyntheticMix(own)
    _, soft = SyntheticMix(own, class_to_idx={"dog": 0, "cat": 4})(white("pil"), "cat")
    assert soft.tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(UsageError, match="has no place in a soft label"):
        SyntheticMix(own, class_to_idx={"dog": 0}, on_unknown_label="skip")(white("pil"), "cat")


def test_a_replay_repeats_image_and_label_and_settings_survive(pool, tmp_path):
    mix = on_arrays.SyntheticMix(pool=pool, p=0.9, method="cutmix", partner_class=1, alpha=2.0)
    with pytest.warns(UserWarning, match="params depend on targets"):
        pipeline = A.ReplayCompose([mix, A.HorizontalFlip(p=0.5)])
        first = pipeline(image=white("array"), label=0)
        again = A.ReplayCompose.replay(json.loads(json.dumps(first["replay"])), image=white("array"), label=0)
    np.testing.assert_array_equal(again["image"], first["image"])
    np.testing.assert_array_equal(again["label"], first["label"])
    A.save(mix, tmp_path / "mix.yaml", data_format="yaml")
    copies = [A.load(tmp_path / "mix.yaml", data_format="yaml"), pickle.loads(pickle.dumps(mix))]
    copies.append(A.from_dict(json.loads(json.dumps(A.to_dict(mix)))))
    for copy in copies:
        assert copy.to_dict() == mix.to_dict()
        assert copy.to_dict()["transform"]["p"] == 0.9
        assert copy.partner_class == "dog"
    transform = SyntheticMix(pool, p=0.9, method="cutmix", partner_class=1)
    assert repr(pickle.loads(pickle.dumps(transform))) == repr(transform)
    assert "method=cutmix" in repr(transform)
