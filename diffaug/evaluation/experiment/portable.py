"""Classifiers of the user's own for other processes."""

from __future__ import annotations

import pickle

from diffaug.classifiers.training import Classifier, NetworkClassifier
from diffaug.errors import UsageError


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
    except Exception:  # whatever what the user's object holds may raise
        return None
    return None if b"__main__" in content else content


def unpacked(content: bytes) -> Classifier:
    """The inverse of `packed`; only for what this program has packed itself, since it runs code.

    Raises:
        UsageError: This process can't import what it is made of.
    """
    try:
        classifier: Classifier = pickle.loads(content)  # noqa: S301
    except Exception as error:
        raise UsageError(
            f"the network can't be imported by other processes: {error}",
            where="evaluation.workers",
            fix="evaluation.workers=1 trains it in the program's own",
        ) from error
    return classifier
