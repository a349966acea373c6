"""The generator behind MLflow's pyfunc interface; MLflow keeps this file with the model and runs it to load it."""

from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import UsageError
from diffaug.files.storage import png_bytes

LARGEST_NUMBER = 1000
IMAGES_AT_ONCE = 8
COLUMNS = ("label", "index", "seed", "image")


class GeneratorModel(PythonModel):
    """Samples PNG images of classes.

    Image i of a class depends on (seed, class, i) and the sampling alone: not on `n`, nor on the other rows of a
    request. On one machine the same request gives the same bytes.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the generator, on the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.generator = Generator.load(context.artifacts["generator"], device=device)

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Samples for each row `n`, 1 to 1000, images of the class `label`, a name or what `class_of` takes for one.

        `params` are `seed`, `guidance_scale` and `num_inference_steps`, see `Generator.sample`.

        Returns:
            One row per image: `label`, `index` from 0 within its row of the request, `seed`, and `image`, PNG bytes.

        Raises:
            MlflowException: An unknown class, a number out of range, or a generator that only varies real images;
                nothing is sampled then. A server answers 400.
        """
        options = {name: value for name, value in (params or {}).items() if value is not None}
        seed = int(options.pop("seed", 0))
        try:
            if self.generator.usual.only_varies:
                what = "this generator was not trained on the images: it varies real ones and samples none from noise"
                raise UsageError(what, fix="fine-tune it with diffaug fit --route pipeline, and serve that one")
            wanted = [
                (self.generator.class_of(label), int(n))
                for label, n in zip(model_input["label"], model_input["n"], strict=True)
            ]
            for label, n in wanted:
                if not 1 <= n <= LARGEST_NUMBER:
                    raise UsageError(f"n must be 1 to {LARGEST_NUMBER} images of '{label}', not {n}")
            rows = [
                (label, index, seed, png_bytes(pixels))
                for label, n in wanted
                for index, pixels in enumerate(self._sample(label, n, seed, options))
            ]
        except UsageError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _sample(self, label: str, n: int, seed: int, options: dict[str, Any]) -> list[NDArray[Any]]:
        """Whole chunks of fixed membership, since convolutions round differently by batch size."""
        images: list[NDArray[Any]] = []
        while len(images) < n:
            indices = range(len(images), len(images) + IMAGES_AT_ONCE)
            images += list(self.generator.sample(label, indices, seed=seed, **options))
        return images[:n]


mlflow.models.set_model(GeneratorModel())
