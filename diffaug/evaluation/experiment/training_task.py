"""One training of the experiment as a task for any process, the ways to learn, and its outcome."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.classifiers.curves import learning_curve
from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.classifiers.pseudo_labels import PseudoLabels
from diffaug.classifiers.training_set import Classifier, Images, TrainingRecipe, TrainingSet
from diffaug.data.images import LabeledImages
from diffaug.data.labels import class_of
from diffaug.errors import UsageError
from diffaug.evaluation.experiment.arms import Arm, Learner, resolve_arm
from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.experiment.training_sets import Examples, PseudoLabeled, training_set
from diffaug.files.storage import fingerprint

TrainFunction = Callable[[TrainingSet, NDArray[np.uint8], int], Any]
"""The user's own training: (training set, test pixels uint8 (N, H, W, C), seed) to labels (N,) or probabilities.

Labels are class names or positions in the training set's `images.classes`."""


@dataclass(frozen=True)
class Subset:
    """The images of one dataset, which has a hash, at some positions, int64; None: all.

    Attributes:
        features: Of all images of the dataset, float32 (N, D); None where no arm needs them.
        pictures: All images of the dataset in more detail; None where no arm needs them.
    """

    dataset: LabeledImages
    dataset_hash: str
    positions: NDArray[np.int64] | None = None
    features: NDArray[np.float32] | None = None
    pictures: Images | None = None

    def examples(self) -> Examples:
        """The images at these positions, with their features."""
        every = Examples(self.dataset, self.features, self.pictures)
        return every if self.positions is None else every.select(self.positions)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The classes of these images."""
        return self.dataset.labels if self.positions is None else self.dataset.labels[self.positions]

    def identity(self) -> list[str]:
        """Identifies the content."""
        positions = b"all" if self.positions is None else self.positions.tobytes()
        return [self.dataset_hash, hashlib.sha256(positions).hexdigest()]


@dataclass(frozen=True)
class PseudoLabeledSubset:
    """Unlabeled images with the labels and weights that a classifier gave them."""

    images: Subset
    given: PseudoLabels

    def examples(self) -> PseudoLabeled:
        """Those whose label is used."""
        examples, used = self.images.examples(), self.given.used
        labeled = replace(examples, images=replace(examples.images, labels=self.given.labels))
        return PseudoLabeled(labeled.select(np.flatnonzero(used)), self.given.weights[used])

    def identity(self) -> list[str]:
        """Identifies images, labels and weights."""
        given = self.given.labels.tobytes() + self.given.weights.tobytes()
        return [*self.images.identity(), hashlib.sha256(given).hexdigest()]


@dataclass(frozen=True)
class TrainingTask:
    """One training and the images to predict.

    Attributes:
        base: The real arm that an arm `on_best` builds on.
        pseudo: What an arm with pseudo-labels is trained on beside the real images; None until they were given.
    """

    arm: Arm
    base: Arm | None
    mix: Mix
    real: Subset
    synthetic: Subset | None
    eval_images: Subset
    seed: int
    pseudo: PseudoLabeledSubset | None = None

    @property
    def resolved(self) -> Arm:
        """The arm as it is trained."""
        return resolve_arm(self.arm, self.mix.fraction if self.synthetic else 0.0, self.base)

    def training_set(self) -> TrainingSet:
        """The training data."""
        real = self.real.examples()
        synthetic = self.synthetic.examples() if self.synthetic else real.select(np.empty(0, np.int64))
        pseudo = self.pseudo.examples() if self.pseudo else None
        return training_set(self.arm, real, synthetic, self.mix, base=self.base, pseudo=pseudo)

    def fingerprint(self, context: Mapping[Learner, Any]) -> str:
        """Identifies everything that the outcome depends on; arms with identical trainings share it.

        `context` is all that the task does not hold, JSON-like, for each way to learn: classifier, recipe, device.
        """
        arm = self.resolved
        how = {name: value for name, value in asdict(arm).items() if name not in ("name", "on_best")}
        mix = asdict(self.mix) if arm.depends_on_mix else None
        synthetic = self.synthetic.identity() if mix and self.synthetic else None
        pseudo = self.pseudo.identity() if arm.pseudo_labeling and self.pseudo else None
        images = [self.real.identity(), synthetic, self.eval_images.identity(), pseudo]
        seed = None if arm.learner == "features" else self.seed  # a regression has no random draw
        return fingerprint([how, mix, images, seed, context[arm.learner]])


@dataclass(frozen=True)
class Outcome:
    """Predicted classes, int (N,), or class probabilities, float (N, K), and how long it took to get them.

    Attributes:
        curve: Steps done and mean loss since the point before; empty where no network of diffaug was trained.
    """

    answer: NDArray[Any]
    seconds: float
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted classes (N,)."""
        return predicted_classes(self.answer)


def predicted_classes(answer: NDArray[Any]) -> NDArray[np.int64]:
    """The classes (N,) that an answer means, whether it holds classes or their probabilities (N, K)."""
    return np.asarray(answer.argmax(axis=1) if answer.ndim == 2 else answer, np.int64)


def perform(task: TrainingTask, train: Callable[..., Any], device: str, trained_by: str) -> Outcome:
    """Trains and predicts; on a GPU with an index, that GPU is torch's current one meanwhile.

    `train` is called with (training set, examples to predict, seed=).

    Raises:
        UsageError: What `train`, named by `trained_by`, returned is neither a label nor class probabilities per image.
    """
    training, others, started = task.training_set(), task.eval_images.examples(), time.perf_counter()
    with torch.cuda.device(device) if device.startswith("cuda:") else nullcontext(), learning_curve() as curve:
        answer = train(training, others, seed=task.seed)
    checked = _checked(answer, len(others), training.images.classes, trained_by)
    return Outcome(checked, time.perf_counter() - started, curve.points)


def _checked(answer: Any, count: int, classes: Sequence[str], trained_by: str) -> NDArray[Any]:
    """The answer as an array; UsageError if it is not one label or one row of probabilities per image."""
    try:
        array = _positions_of_names(np.asarray(answer), classes, trained_by)
        problem = _problem(array, count, len(classes))
    except (ValueError, TypeError, RuntimeError) as error:
        problem = f"no array ({error})"
    if problem:
        raise UsageError(
            f"the answer is {problem}",
            where=trained_by,
            fix=f"return labels, class names or their positions in training_set.images.classes, of shape ({count},), "
            f"or probabilities, floats of shape ({count}, {len(classes)})",
        )
    return array


def _positions_of_names(answer: NDArray[Any], classes: Sequence[str], trained_by: str) -> NDArray[Any]:
    """Labels given as class names as positions in `classes`; anything else as it is."""
    if answer.dtype.kind != "U" or answer.ndim != 1:
        return answer
    names, inverse = np.unique(answer, return_inverse=True)
    positions = [classes.index(class_of(name, classes, where=trained_by)) for name in names]
    return np.array(positions, np.int64)[inverse]


def _problem(answer: NDArray[Any], count: int, classes: int) -> str:
    if answer.shape == (count,) and answer.dtype.kind in "iu":
        wrong = answer[(answer < 0) | (answer >= classes)]
        return f"class {wrong[0]}, but classes are 0 to {classes - 1}" if len(wrong) else ""
    if answer.shape == (count, classes) and answer.dtype.kind == "f":
        valid = np.isfinite(answer).all() and (answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-3)
        return "" if valid else "probabilities that are not finite, are negative or do not sum to 1"
    return f"{answer.dtype} of shape {answer.shape}"


def train_network(
    training: TrainingSet, others: Examples, *, seed: int, classifier: Classifier, recipe: TrainingRecipe, device: str
) -> Any:
    """Trains a classifier; class probabilities of the others (N, K)."""
    return classifier.fit_predict(training, _pixels(others), recipe=recipe, seed=seed, device=device)


def train_regression(training: TrainingSet, others: Examples, *, seed: int, regularization: float) -> Any:
    """Fits a logistic regression on features; class probabilities of the others (N, K). The seed has no effect."""
    if training.features is None or others.features is None:
        raise ValueError("a regression on features needs features")
    from diffaug.classifiers.feature_regression import FeatureRegression  # scikit-learn takes a second to import

    worth = training.worth or len(training.images)
    targets = training.soft_labels * (worth / len(training.images) * training.importances)[:, None]
    regression = FeatureRegression(regularization)  # not class-weighted: importances hold the weights of classes
    return regression.fit_predict(training.features, targets, training.log_prior, others.features)


def fine_tune(
    training: TrainingSet, others: Examples, *, seed: int, encoder: ModuleEncoder, updates: int, device: str
) -> Any:
    """Trains a pretrained encoder further; class probabilities of the others (N, K)."""
    from diffaug.classifiers.encoders.fine_tuning import fine_tune_predict

    pictures = _pixels(others) if others.pictures is None else others.pictures
    return fine_tune_predict(
        training, pictures, encoder=encoder, updates=updates, seed=seed, device=device, images=training.pictures
    )


def call_train_function(training: TrainingSet, others: Examples, *, seed: int, train_fn: TrainFunction) -> Any:
    """Calls the user's own training."""
    return train_fn(training, _pixels(others), seed)


def _pixels(examples: Examples) -> NDArray[np.uint8]:
    return np.asarray(examples.images.pixels)
