import dataclasses

import pytest
import torch

from diffaug.diffusion.generator.warm_start import LABELS, take_weights
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.planning.sources import InitialWeights
from diffaug.diffusion.training.pace import learning_rate_at


def random_denoiser(network, seed: int) -> Denoiser:
    torch.manual_seed(seed)
    denoiser = Denoiser(network)
    for parameter in denoiser.parameters():  # also those that begin as zero
        torch.nn.init.normal_(parameter)
    return denoiser


def test_embeddings_go_by_the_names_of_classes_and_new_ones_begin_as_any_class(plan: Plan) -> None:
    before = random_denoiser(dataclasses.replace(plan.network, num_classes=3), 0)
    now = random_denoiser(dataclasses.replace(plan.network, num_classes=4), 1)
    share = take_weights(now, before.state_dict(), ("a", "b", "c"), ("new", "c", "a", "newer"))
    old, taken = before.state_dict()[LABELS], now.state_dict()[LABELS]
    assert torch.equal(taken, old[[3, 2, 0, 3, 3]])
    assert share == 1
    others = [name for name in now.state_dict() if name != LABELS]
    assert all(torch.equal(now.state_dict()[name], before.state_dict()[name]) for name in others)


def test_no_class_in_common(plan: Plan) -> None:
    before, now = random_denoiser(plan.network, 0), random_denoiser(plan.network, 1)
    take_weights(now, before.state_dict(), ("a", "b"), ("c", "d"))
    assert torch.equal(now.state_dict()[LABELS], before.state_dict()[LABELS][[2, 2, 2]])


def test_layers_of_another_shape_stay_as_they_were(plan: Plan) -> None:
    before = random_denoiser(dataclasses.replace(plan.network, patch=2), 0)
    now, same = (random_denoiser(plan.network, 1) for _ in range(2))
    share = take_weights(now, before.state_dict(), ("a", "b"), ("a", "b"))
    old, new, random = (one.state_dict() for one in (before, now, same))
    changed = {name for name in new if not torch.equal(new[name], random[name])}
    kept = new.keys() - changed
    assert kept == {name for name, tensor in old.items() if tensor.shape != random[name].shape}
    assert {name.split(".")[1] for name in kept} == {"stem", "head"}
    sizes = {name: tensor.numel() for name, tensor in random.items()}
    assert share == pytest.approx(sum(sizes[name] for name in changed) / sum(sizes.values()))


def test_a_continued_training_warms_up_sooner(plan: Plan) -> None:
    long = dataclasses.replace(plan, images_seen=8 * 1000)
    continued = dataclasses.replace(long, initial=InitialWeights("earlier", "0" * 64, 2, (), 1.0, 0.002))
    warm_ups = [
        next(step for step in range(1000) if learning_rate_at(step, one) == one.learning_rate)
        for one in (long, continued)
    ]
    assert warm_ups == [49, 19]
