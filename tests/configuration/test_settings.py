import pytest

from diffaug.configuration.arms import DEFAULT_ARMS
from diffaug.configuration.settings import Config
from diffaug.configuration.sources import setting_fields


def test_the_settings_are_few():
    assert len([key for key in setting_fields() if not key.startswith("advanced.")]) <= 56
    assert len([key for key in setting_fields() if key.startswith("advanced.")]) <= 6


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


def test_the_arms_compared_by_default_leave_out_controls_and_ablations():
    settings = Config().evaluation
    assert (settings.compared_arms, settings.repetitions, settings.generator_count) == (DEFAULT_ARMS, 5, 1)
