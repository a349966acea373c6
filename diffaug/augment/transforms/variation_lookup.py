"""Looks up the variations of a real image by its path, for the transforms."""

import os
import shlex
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.augment.lookup import OnProblem, PoolLookup
from diffaug.diffusion.generator.files import read_rows
from diffaug.errors import UsageError
from diffaug.synthesis.pool.origins import VARIATION

AMBIGUOUS = ""
OF_DATASETS = "of item i of a torch Dataset that was given to fit, pass f'{i:06d}.png'"


class VariationLookup(PoolLookup):
    """Variations in a pool by the path of the real image that they began from.

    If the pool lies in its study, an image is known if the generator has seen it; otherwise if it has variations.
    """

    def require_variations(self) -> None:
        """Raises UsageError if the pool has none."""
        if not self._positions_by_source:
            study = shlex.quote(str(self.pool.root.parent)) if self._seen is not None else "STUDY"
            fix = f"make some: diffaug generate {study} --set synthesis.variation_fraction=0.5 --overwrite"
            raise UsageError("the pool has no variations of real images", where=self.where, fix=fix)

    def variations(self, path: Any, on_unknown: OnProblem) -> NDArray[np.int64]:
        """Positions in the pool of the variations of an image; there are none of an unknown, skipped one.

        A path is known by its end: `/data/train/cat/1.png`, `train/cat/1.png` and `cat/1.png` are one image, if no
        other image of the study is called so.
        """
        if not isinstance(path, str | os.PathLike) or isinstance(path, bytes):
            what = f"the path of the image is needed to find its variations, not {type(path).__name__}"
            raise UsageError(what, where=self.where, fix=OF_DATASETS)
        source = self._known(PurePath(path).as_posix())
        if source == AMBIGUOUS:
            what = f"several images of the study have a path that ends with '{os.fspath(path)}'"
            raise UsageError(what, where=self.where, fix="pass more of the path")
        if source is None and self._seen is not None and on_unknown == "error":
            what = f"the generator has not seen an image '{os.fspath(path)}', but for example '{self._seen[0]}'"
            fix = f"pass the path in the data folder of the study; {OF_DATASETS}; or set on_unknown_path='skip'"
            raise UsageError(what, where=self.where, fix=fix)
        return self._positions_by_source.get(source or "", np.empty(0, np.int64))

    def _known(self, path: str) -> str | None:
        """The known image of this path; None if there is none, `AMBIGUOUS` if there are several."""
        parts = path.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        whole = next((tail for tail in tails if tail in self._paths), None)
        return whole or self._by_end.get(path)

    @cached_property
    def _positions_by_source(self) -> dict[str, NDArray[np.int64]]:
        manifest = self.pool.manifest
        sources = manifest.loc[manifest["origin"] == VARIATION, "source"]
        return {str(source): np.asarray(own, np.int64) for source, own in sources.groupby(sources).groups.items()}

    @cached_property
    def _seen(self) -> list[str] | None:
        """The images that the generator of the study has seen or held out; None if the pool lies in no study."""
        rows = read_rows(self.pool.root.parent / "generator")
        return None if rows is None else sorted(map(str, rows["id"]))

    @cached_property
    def _paths(self) -> frozenset[str]:
        return frozenset(self._seen or ()) | self._positions_by_source.keys()

    @cached_property
    def _by_end(self) -> dict[str, str]:
        """Each known path by every end of it."""
        found: dict[str, str] = {}
        for path in self._paths:
            parts = path.split("/")
            for start in range(1, len(parts)):
                end = "/".join(parts[start:])
                found[end] = AMBIGUOUS if end in found else path
        return found
