from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffaug.configuration.settings import Config, DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DiffaugError, UsageError
from diffaug.stages.fitting.routes import by_name
from diffaug.stages.fitting.routes.by_name import choose_route
from diffaug.stages.fitting.routes.pixels import PixelRoute


def chosen(size: tuple[int, int], device: str = "cpu", **settings: Any) -> tuple[str, str]:
    images = LabeledImages(np.zeros((2, *size, 3), np.uint8), np.zeros(2, np.int64), ("a", "b"), ("1", "2"))
    job: Any = SimpleNamespace(config=Config(diffusion=DiffusionSettings(**settings)), device=device)
    route, why = choose_route(job, images)
    assert why.startswith(f"route: {route.name}, ")
    return route.name, why


@pytest.mark.parametrize(
    ("size", "named"), [((64, 64), False), ((40, 100), False), ((65, 65), True), ((200, 9), False)]
)
def test_without_a_wish_it_is_pixels_and_above_64_px_the_cascade_is_named(size: tuple[int, int], named: bool) -> None:
    name, why = chosen(size)
    assert name == "pixels" and ("--route cascade" in why) == named


def test_a_route_that_is_set_is_taken_and_one_that_is_not_possible_is_refused(tmp_path) -> None:
    assert chosen((200, 200), route="pixels") == ("pixels", "route: pixels, as set")
    assert chosen((200, 200), init=str(tmp_path))[0] == "pixels"
    with pytest.raises(UsageError, match=r"the route 'cascade' is not possible here: .* 32 x 32 px"):
        chosen((32, 32), route="cascade")
    with pytest.raises(UsageError, match="the route 'latent' is not possible here"):
        chosen((200, 200), autoencoder=str(tmp_path))
    with pytest.raises(DiffaugError, match="pipeline"):
        chosen((200, 200), pipeline=str(tmp_path))


def test_an_entry_point_must_name_its_route(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(name="other", load=lambda: PixelRoute)
    monkeypatch.setattr(by_name, "entry_points", lambda group: [point])
    with pytest.raises(DiffaugError, match="'other' is the route 'pixels'"):
        by_name.route_by_name("pixels")
    monkeypatch.setattr(by_name, "entry_points", lambda group: [])
    with pytest.raises(UsageError, match="'pipeline' is not installed; known are pixels, "):
        by_name.route_by_name("pipeline")
