import numpy as np
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.catalog import Catalog, build_catalog
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.training.batches import TrainingData, draw_batch
from diffaug.diffusion.training.holdout import hold_out


@pytest.fixture
def catalog(tmp_path) -> Catalog:
    """Train images of 60 + 40 + 12; those of `tracks` come in groups of two, two of `many` are equal."""
    rng = np.random.default_rng(0)
    equal = rng.integers(0, 256, (6, 6), dtype=np.uint8)
    rows = ["file_name,label,group,split"]
    for label, count in {"many": 60, "tracks": 40, "few": 12}.items():
        for number in range(count + 2):
            name = f"{label}-{number}.png"
            pixels = equal if label == "many" and number < 2 else rng.integers(0, 256, (6, 6), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name)
            group = f"track {number // 2}" if label == "tracks" else ""
            rows.append(f"{name},{label},{group},{'train' if number < count else 'test'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return build_catalog(tmp_path, DataSettings(), seed=0)


def test_larger_classes_give_their_share_and_small_ones_nothing(catalog) -> None:
    holdout = hold_out(catalog, fraction=0.05, limit=256, seed=0)
    assert holdout.held.counts_by_name == {"few": 0, "many": 3, "tracks": 2}
    assert sorted(holdout.trained.ids + holdout.held.ids) == sorted(catalog.images("train").ids)
    again = hold_out(catalog, fraction=0.05, limit=256, seed=0)
    assert again.held.ids == holdout.held.ids
    assert hold_out(catalog, fraction=0.05, limit=256, seed=1).held.ids != holdout.held.ids


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 30])
def test_the_limit_holds_for_all_classes_together(catalog, limit) -> None:
    assert len(hold_out(catalog, fraction=0.4, limit=limit, seed=0).held) <= limit
    assert not len(hold_out(catalog, fraction=0.0, limit=limit, seed=0).held)


@pytest.mark.parametrize("seed", range(20))
def test_groups_and_equal_images_stay_together(catalog, seed) -> None:
    holdout = hold_out(catalog, fraction=0.3, limit=256, seed=seed)
    held = set(holdout.held.ids)
    assert len(held) > 20
    for number in range(20):
        assert len(held & {f"tracks-{2 * number}.png", f"tracks-{2 * number + 1}.png"}) in (0, 2)
    assert len(held & {"many-0.png", "many-1.png"}) in (0, 2)
    group = dict(zip(holdout.trained.ids, holdout.groups, strict=True))
    assert len(set(group.values())) == len(group) - sum(
        a in group for a in ("many-1.png", *(f"tracks-{2 * i + 1}.png" for i in range(20)))
    )


def test_held_out_images_never_enter_a_batch(catalog, settings) -> None:
    holdout = hold_out(catalog, fraction=0.3, limit=256, seed=0)
    plan = make_plan(holdout.trained, settings, "cpu")
    data = TrainingData.of(holdout.trained, settings, "cpu", plan.images)
    seen = set()
    for step in range(100):
        batch = draw_batch(data, plan, settings, 0, step)
        seen |= {bytes(image) for image in data.normalization.to_pixels(batch.x0)}
    assert seen.isdisjoint(map(bytes, holdout.held.pixels))
    assert seen == set(map(bytes, holdout.trained.pixels))
