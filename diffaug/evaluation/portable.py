"""Classifiers of the user's own for other processes."""

from __future__ import annotations

import pickle

from diffaug.evaluation.training import Classifier, NetworkClassifier


def packed(classifier: Classifier) -> bytes | None:
    """The classifier for other processes; none: it can be trained in this one only.

    Other processes import what a network is made by, so it must be known by a name in a module, and that module may
    not be the program itself, which would begin again. An object with a `fit_predict` of its own stays here, where
    what it remembers is seen.
    """
    if not isinstance(classifier, NetworkClassifier):
        return None
    try:
        content = pickle.dumps(classifier)
    except (AttributeError, TypeError, pickle.PicklingError):
        return None
    return None if b"__main__" in content else content


def unpacked(content: bytes) -> Classifier:
    """The inverse of `packed`; only for what this program has packed itself, since it runs code.

    Raises:
        ImportError: The module is not where this process looks for modules.
    """
    classifier: Classifier = pickle.loads(content)  # noqa: S301
    return classifier
