from types import SimpleNamespace

import pytest

from diffaug.stages.generating import describe_power
from diffaug.stages.generating.describe_power import tell_power_of_pilot


@pytest.mark.parametrize(
    ("blind", "told"),
    [(("a",), "chosen without them. The pool's images"), (("a", "b"), "the smallest is tested")],
)
def test_what_a_pilot_that_nothing_confirms_means_is_told(monkeypatch, blind, told) -> None:
    monkeypatch.setattr(describe_power, "longer_training", lambda job: "diffaug fit")
    classes = {name: SimpleNamespace(blind=("few images",) if name in blind else ()) for name in ("a", "b")}
    warnings: list[str] = []
    job = SimpleNamespace(narrator=SimpleNamespace(warn=warnings.append))
    tell_power_of_pilot(job, SimpleNamespace(classes=classes, unlearned=()))
    assert len(warnings) == 1 and told in warnings[0]
