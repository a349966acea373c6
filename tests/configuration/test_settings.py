from importlib.metadata import EntryPoint, EntryPoints

import pytest

from diffaug.configuration import routes
from diffaug.configuration.arms import ARM_NAMES, Resources
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.configuration.settings import Config, DiffusionSettings
from diffaug.configuration.sources import setting_fields
from diffaug.errors import UsageError
from diffaug.stages.fitting.routes.by_name import all_routes


def test_the_settings_are_few():
    assert len([key for key in setting_fields() if not key.startswith("advanced.")]) <= 63
    assert len([key for key in setting_fields() if key.startswith("advanced.")]) <= 10


@pytest.mark.parametrize("key", setting_fields())
def test_every_setting_is_described(key):
    field = setting_fields()[key]
    assert field.description
    assert field.description[0].isalnum()
    assert field.description.endswith(".")
    assert (field.default is None) <= ("Default: " in field.description)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3


def test_a_route_of_another_package_can_be_set(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown route 'mine'; known are auto, pixels, cascade, latent, pipeline"):
        DiffusionSettings(route="mine")
    point = EntryPoint("mine", "package:Mine", routes.ROUTES)
    monkeypatch.setattr(routes, "entry_points", lambda group: EntryPoints([point]).select(group=group))
    assert DiffusionSettings(route="mine").route == "mine"
    with pytest.raises(ValueError, match="known are auto, pixels, cascade, latent, mine"):
        DiffusionSettings(route="theirs")


def test_the_routes_that_can_be_set_are_those_that_are_found():
    assert set(routes.route_names()) == set(all_routes())


FREE = ("real only", "oversampling", "balanced softmax", "tuned augmentation")
TUNED = ("real only", "tuned augmentation")
BEST = "best real + synthetic"
ALL = Resources(encoder=True, fine_tuning=True, gpu=True, unlabeled=True)


@pytest.mark.parametrize(
    ("settings", "resources", "arms"),
    [
        ({}, Resources(), (*TUNED, BEST)),
        ({}, Resources(encoder=True, fine_tuning=True), (*TUNED, "pretrained features", BEST)),
        ({}, ALL, (*TUNED, "pretrained features", "fine-tuned", "pseudo-labels", BEST)),
        ({}, Resources(unlabeled=True, augmentable=False), (*FREE[:3], "pseudo-labels", BEST)),
        ({}, Resources(pool=False), (*TUNED, BEST)),
        ({"quick": True}, ALL, ("real only", "balanced softmax", "pretrained features", BEST)),
        ({"quick": True}, Resources(), ("real only", "balanced softmax", BEST)),
        ({"thorough": True}, ALL, ARM_NAMES),
        ({"thorough": True}, Resources(pool=False), (*FREE, BEST)),
        ({"arms": ["fine-tuned", BEST]}, Resources(encoder=True, fine_tuning=True), ("fine-tuned", BEST)),
    ],
)
def test_the_compared_arms_are_those_that_the_data_allow_unless_some_are_named(settings, resources, arms):
    assert EvaluationSettings(**settings).compared_arms(resources) == arms


@pytest.mark.parametrize(
    ("arm", "missing", "fix"),
    [
        ("pretrained features", "a pretrained encoder", "diffaug[encoder]"),
        ("fine-tuned", "trained further", "remove the arm"),
        ("pseudo-labels", "unlabeled images", "data.unlabeled"),
        ("synthetic only", "synthetic images", "diffaug generate"),
    ],
)
def test_a_named_arm_without_what_it_needs_is_an_error_that_says_how_to_get_it(arm, missing, fix):
    with pytest.raises(UsageError, match=f"'{arm}' needs .*{missing}") as error:
        EvaluationSettings(arms=["real only", arm, BEST]).compared_arms(Resources(pool=False))
    assert fix in error.value.fix


@pytest.mark.parametrize(
    ("settings", "seeds", "generators"),
    [({}, 5, 1), ({"quick": True}, 2, 1), ({"thorough": True}, 10, 2), ({"quick": True, "num_seeds": 3}, 3, 1)],
)
def test_quick_and_thorough_decide_seeds_and_generators(settings, seeds, generators):
    evaluation = EvaluationSettings(**settings)
    assert (evaluation.repetitions, evaluation.generator_count) == (seeds, generators)


def test_an_evaluation_is_quick_or_thorough_but_not_both():
    with pytest.raises(ValueError, match="quick or thorough"):
        EvaluationSettings(quick=True, thorough=True)


def test_arms_without_synthetic_images_get_the_one_that_a_verdict_needs() -> None:
    assert EvaluationSettings(arms=("real only", "pseudo-labels")).arms[2:] == ("best real + synthetic",)
    assert EvaluationSettings(arms=("real only", "real + synthetic")).arms == ("real only", "real + synthetic")
