"""The protocol of scikit-learn's estimators and imbalanced-learn's samplers."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from diffaug.augment.arrays import image_rows, like
from diffaug.augment.lookup import usable_pool
from diffaug.configuration.settings import Config
from diffaug.errors import UsageError, did_you_mean
from diffaug.files import storage
from diffaug.synthesis.pool.targets import resolve_targets

WITHOUT_EFFECT = ("verbose", "command", "overwrite", "device", "study")  # on the images that are made


class Sampler(ABC):
    """An over-sampler that can be cloned, pickled and set up by `set_params`, such as in a grid search.

    Its parameters are the arguments of its constructor, which hands them to `_configure`.
    """

    _arguments: Mapping[str, Any]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name; `deep` is there for scikit-learn and changes nothing."""
        return dict(self._arguments)

    def set_params(self, **params: Any) -> Self:
        """Takes other arguments, as if constructed with them: no study is open any more."""
        for name in params:
            if name not in self._arguments:
                what = f"{type(self).__name__} has no parameter '{name}'"
                raise UsageError(what, where="set_params", fix=did_you_mean(name, self._arguments))
        if params:
            self._configure({**self._arguments, **params})
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Fits a generator on labeled images in arrays and adds what rare classes lack; for imbalanced-learn.

        Each content of X and y gets a study of its own, `<study>-<hash>`, in which the same call resumes, so that every
        fold of a cross-validation has its own generator. `sampling_strategy` of the settings counts all of X, though
        a part is kept from the generator to judge its images by. Images of classes that nothing shows them to belong to
        are left out with a warning, unless `include_blind`.

        Args:
            X: Images (N, H, W), (N, H, W, C) with 1 or 3 channels, or flat columns (N, H * W * C): square and gray, or
                of `image_shape`. An array, or a table of flat columns. uint8; or other numbers, of which the smallest
                of X is black and the largest white.
            y: A label per image, (N,): integers or texts.

        Returns:
            X and y as given, and after them the synthetic images, in the shape, type and range of X.

        Raises:
            UsageError: X or y is not of this form.
            DataError: The images can't be used.
        """
        images = image_rows(X, y, self._arguments["image_shape"])
        has_effect = {name: repr(given) for name, given in self._arguments.items() if name not in WITHOUT_EFFECT}
        name = self._arguments["study"] or Path("runs", "arrays")
        study = f"{name}-{storage.fingerprint([images.fingerprint, sorted(has_effect.items())])}"
        one: Any = type(self)(**{**self._arguments, "study": study}).fit(images)  # type: ignore[attr-defined]
        settings = self._own_settings().synthesis  # that of the study is totals already, once its pool was begun
        added = resolve_targets(
            images.counts, settings.sampling_strategy, max_synthetic_ratio=settings.max_synthetic_ratio
        )
        pool = one.generate({label: count + added[label] for label, count in one.class_counts_.items()})
        self._continue(one)
        pool = usable_pool(pool, include_blind=self._arguments["include_blind"])
        extended, labels = images.extended(pool.images())
        return like(X, extended), like(y, labels)

    @abstractmethod
    def _configure(self, arguments: Mapping[str, Any]) -> None:
        """Takes the arguments of the constructor."""

    @abstractmethod
    def _own_settings(self) -> Config:
        """The settings, whatever was saved in a study."""

    @abstractmethod
    def _continue(self, other: Any) -> None:
        """Goes on with the study of another one of this kind."""

    @abstractmethod
    def _open_study(self) -> Path | None:
        """The folder of the study in use."""

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": dict(self._arguments), "study": self._open_study()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._configure(state["arguments"])
        if state["study"] is not None:
            others = {name: given for name, given in state["arguments"].items() if name != "study"}
            self._continue(type(self).open(state["study"], **others))  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = {name: given for name, given in self._arguments.items() if given != defaults[name].default}
        return f"{type(self).__name__}({', '.join(f'{name}={given!r}' for name, given in changed.items())})"
