"""What the filters can tell: records of what was measured on held-out real images and on the images of a pool."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from diffaug.similarity.intervals import Estimate, Share

UNKNOWN = Share(0, 0)


@dataclass(frozen=True)
class FilterPower:
    """What the classifiers of the filters can tell about one class.

    Each real image is judged by a classifier that was not trained on it, each sample by one of them, and each variation
    by the one that was not trained on its source.

    Attributes:
        recognized: Held-out real images of the class that the classifiers assign to it.
        ranking: Probability that a held-out image of the class looks more like the class than one of another class: the
            area under the ROC curve, 0.5 is chance. None if no image of the class, or of no other one, was held out.
        confirmed: Accepted samples, variations aside, that the classifiers assign to the class.
        kept_class: Of accepted variations whose source the classifiers recognize, those that they still recognize.
        on_background: Accepted transplants and crossed variations that the classifiers assign to the class.
        objects_told: Real objects with shuffled pixels that the check of painted objects tells from real ones.
        farther: Probability that an accepted sample is farther from the class, in the features of the classifiers, than
            a held-out real image of it; 0.5 if they lie alike. None without samples or held-out images.
        passed: Samples, accepted or not, that neither `wrong class` nor `out of distribution` rejects.
        blind: Why nothing shows that synthetic images of the class belong to it, in sentences; empty if nothing is
            wrong.
    """

    recognized: Share
    ranking: Estimate | None
    confirmed: Share
    kept_class: Share
    farther: float | None = None
    passed: Share = UNKNOWN
    blind: tuple[str, ...] = ()
    on_background: Share = UNKNOWN
    objects_told: Share = UNKNOWN


@dataclass(frozen=True)
class PoolPower:
    """The power of the filters for the classes of a pool, by name, and whether its images look like real ones at all.

    Attributes:
        encoder: The network in whose features images are compared.
        unlearned: Why the generator seems not to have learned the images, in sentences; empty if it has.
        figures: What `unlearned` was decided by, by name.
    """

    encoder: str
    classes: dict[str, FilterPower]
    unlearned: tuple[str, ...] = ()
    figures: dict[str, float] | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The measured figures, named measure or measure/class."""
        found = dict(self.figures or {})
        for name, power in self.classes.items():
            shares = {"recognized": power.recognized, "confirmed": power.confirmed, "kept_class": power.kept_class}
            shares |= {"on_background": power.on_background, "objects_told": power.objects_told}
            found |= {f"{measure}/{name}": share.value for measure, share in shares.items() if share.total}
            if power.ranking:
                found[f"ranking/{name}"] = power.ranking.value
        return found


POOL_POWER = TypeAdapter(PoolPower)
