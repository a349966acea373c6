import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings, DiffusionSettings
from diffaug.data.building.build import build_catalog
from diffaug.data.catalog import Catalog
from diffaug.data.splits import choose_holdout
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.training.batches import TrainingData, draw_batch, hold_out


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    """Train images of 60 + 40 + 12; those of `tracks` come in groups of two, two of `many` are equal."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    equal = rng.integers(0, 256, (6, 6), dtype=np.uint8)
    rows = ["file_name,label,group,split"]
    for label, count in {"many": 60, "tracks": 40, "few": 12}.items():
        for number in range(count + 2):
            name = f"{label}-{number}.png"
            pixels = equal if label == "many" and number < 2 else rng.integers(0, 256, (6, 6), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
            group = f"track {number // 2}" if label == "tracks" else ""
            rows.append(f"{name},{label},{group},{'train' if number < count else 'test'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return build_catalog(folder, DataSettings(), directory=tmp_path_factory.mktemp("study") / "catalog", seed=0)


def test_larger_classes_give_their_share_and_small_ones_nothing(catalog) -> None:
    holdout = hold_out(catalog, fraction=0.05, seed=0)
    assert holdout.held.counts_by_name == {"few": 0, "many": 3, "tracks": 2}
    assert sorted(holdout.trained.ids + holdout.held.ids) == sorted(catalog.images("train").ids)
    assert not len(hold_out(catalog, fraction=0.0, seed=0).held)
    assert hold_out(catalog, fraction=0.05, seed=0).held.ids == holdout.held.ids
    assert hold_out(catalog, fraction=0.05, seed=1).held.ids != holdout.held.ids


def test_5_percent_of_a_large_class_are_held_out_however_many_that_is() -> None:
    rows = pd.DataFrame({"path": [f"{number}.png" for number in range(8_000)], "label": "large", "group": ""})
    chosen = choose_holdout(rows, np.arange(8_000), fraction=0.05, smallest=20, seed=0)
    assert chosen.sum() == 400  # more than any check compares


@pytest.mark.parametrize("seed", range(20))
def test_groups_and_equal_images_stay_together(catalog, seed) -> None:
    holdout = hold_out(catalog, fraction=0.3, seed=seed)
    held = set(holdout.held.ids)
    assert len(held) > 20
    for number in range(20):
        assert len(held & {f"tracks-{2 * number}.png", f"tracks-{2 * number + 1}.png"}) in (0, 2)
    assert len(held & {"many-0.png", "many-1.png"}) in (0, 2)
    group = dict(zip(holdout.trained.ids, holdout.groups, strict=True))
    twins = {"many-1.png", *(f"tracks-{2 * number + 1}.png" for number in range(20))}
    assert len(set(group.values())) == len(group) - len(twins & group.keys())


def test_held_out_images_never_enter_a_batch(catalog) -> None:
    holdout = hold_out(catalog, fraction=0.3, seed=0)
    plan = make_plan(holdout.trained, DiffusionSettings(batch_size=8), "cpu")
    data = TrainingData.of(holdout.trained, "cpu")
    seen = set()
    for step in range(100):
        batch = draw_batch(data, plan, 0, step)
        seen |= {bytes(image) for image in data.normalization.to_pixels(batch.x0).pixels}
    assert seen.isdisjoint(map(bytes, holdout.held.pixels))
    assert seen == set(map(bytes, holdout.trained.pixels))
