"""What can be set in every stage, with defaults, ranges and a sentence each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from diffaug.configuration.advanced import AdvancedSettings
from diffaug.configuration.base import Fraction, Positive, PositiveInt, Settings
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.configuration.routes import route_names
from diffaug.configuration.sampling import DEFAULT_SAMPLING, GuidanceMethod, Scale, Solver, Steps

FILTER_NAMES = (
    *("constant", "saturated", "wrong class", "out of distribution", "unlike real objects", "copy", "duplicate"),
)
NO_MASKS = "none"
ROUNDING = 1e-9
SAMPLING_WORDS = ("auto", "not majority", "minority", "not minority", "all")


def _absolute(path: str | None) -> str | None:
    """The path as it is meant from any folder, since a study may be continued in another one."""
    return None if path is None else str(Path(path).expanduser().absolute())


class DataSettings(Settings):
    """How images on disk become a catalog."""

    image_size: Annotated[int, Field(ge=4, le=512)] | None = None
    """Working size in px, short side. Default: the smallest at which the classes can be separated, measured on the
    training images."""
    resize: Literal["auto", "squeeze", "pad", "crop"] = "auto"
    """How an image that does not have the working shape is brought to it. squeeze, which auto takes: the whole image,
    each axis scaled for itself. pad: the same, but the generator learns true proportions. crop cuts away what does not
    fit."""
    channels: Literal[1, 3] | None = None
    """Color channels, 1 for gray and 3 for RGB. Default: detected from the images."""
    intensity_range: tuple[float, float] | None = None
    """Values of 16-bit, float and DICOM images that become black and white. Default: from bit depth or images."""
    pages: Literal["first", "all"] = "first"
    """Pages of a multi-page file to read. all: each page is an image, and the pages of a file are one group."""
    layout: str = "auto"
    """How the folder is read: classes (each folder is a class), inner (the folders in each folder are classes), splits
    (train, test, ...), or the path of the table that gives the labels. auto: found out."""
    label_column: str | None = None
    """Column of the table that gives the labels. Default: found by its name, such as label or diagnosis."""
    group_by: str | None = None
    """Regular expression that finds the group in a path, such as patient(\\d+), or the column of a table that gives
    it. Groups stay on one side of a split. Default: the table's column, if it has a usual name."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of each class held out for testing if the data has no test split."""
    min_train_images: PositiveInt = 2
    """Minimum number of training images per class."""
    unlabeled: str | None = None
    """Further folder of images of the same kind without labels, which train the generator, too. Names of folders and
    tables in it are not read as labels. Default: the folder unlabeled/ beside the labeled images, if there is one."""
    masks: str | None = None
    """Folder of masks, or of files of boxes, named as their images; any value but 0 is the object. none: use no masks.
    Default: the masks that lie with the images."""
    invert_masks: bool | None = None
    """Whether the object is where masks are 0. Default: it is not, and masks that look so are refused."""
    near_duplicates: bool = True
    """Keep images that show nearly the same picture on one side of every split. false: they only look alike, as sheets
    of one form do, and a split that diffaug makes may part them."""

    @field_validator("unlabeled")
    @classmethod
    def _from_anywhere(cls, folder: str | None) -> str | None:
        return _absolute(folder)

    @field_validator("masks")
    @classmethod
    def _masks_from_anywhere(cls, folder: str | None) -> str | None:
        return folder if folder == NO_MASKS else _absolute(folder)

    @field_validator("intensity_range")
    @classmethod
    def _rising(cls, values: tuple[float, float] | None) -> tuple[float, float] | None:
        if values is not None and not -math.inf < values[0] < values[1] < math.inf:
            raise ValueError("the value of black must be below that of white")
        return values


class DiffusionSettings(Settings):
    """How the generator is trained."""

    minutes: Positive | None = None
    """Most minutes that training may take, pilot included. It ends sooner where more does not help. Default: 30."""
    images_seen: PositiveInt | None = None
    """Most images that training may see, instead of minutes; the pilot may choose fewer. Default: chosen from number
    and imbalance of the images."""
    preset: Literal["tiny", "small", "fine", "medium", "large", "huge"] | None = None
    """Size of the UNet. Default: chosen from device, time and number of images."""
    objective: Literal["edm", "ddpm"] = "edm"
    """edm: continuous noise levels. ddpm: 1000 discrete steps with learned-range variance."""
    batch_size: PositiveInt | None = None
    """Images per training step. Default: the preset's."""
    learning_rate: Positive | None = None
    """Peak learning rate of AdamW. Default: the preset's."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout inside the UNet's blocks."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA from compute capability 8.0 on, and on a CPU if it is measured to be faster and the length
    is not set in images."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the network. auto: on CUDA for 20 minutes or more, if it is measured to be faster."""
    augmentation: Fraction | None = None
    """Probability of each geometric augmentation (scale, rotate, stretch, shift) in training; samples are not
    augmented. Default: chosen from how often each image is seen."""
    horizontal_flip: bool = False
    """Also train on mirrored images. Use it if mirroring does not change labels."""
    unlabeled: Literal["auto", "no label", "pseudo-labels", "ignore"] = "auto"
    """How unlabeled images are trained on. no label: as images of any class. pseudo-labels: a classifier labels them,
    and each label counts as often as it is sure. ignore: not at all. auto: no label."""
    route: str = "auto"
    """Way to the generator. pixels: a network for the pixels, trained from scratch. cascade: a small one, then one that
    enlarges its images. latent: a network on the latents of an autoencoder. pipeline: a pretrained pipeline,
    fine-tuned. variations: such a pipeline varies real images. auto: as --pipeline or --autoencoder asks, or pixels.
    Other packages may add routes."""
    autoencoder: str | None = None
    """Folder of a pretrained autoencoder, AutoencoderKL or AutoencoderTiny, for the route latent. Default: none."""
    pipeline: str | None = None
    """Folder of a pretrained diffusers pipeline for the routes pipeline and variations. Default: none."""
    prompts: str | None = None
    """Prompt of a pretrained pipeline: a text in which {class} stands for the class, or {token} for a word that it
    learns for the class; or a CSV of such texts. Default: a photo of a {class}."""
    init: str | None = None
    """Study or generator to continue from, with other classes or another size. Default: random weights."""

    @field_validator("route")
    @classmethod
    def _known_route(cls, route: str) -> str:
        known = ("auto", *route_names())
        if route not in known:
            raise ValueError(f"unknown route '{route}'; known are {', '.join(known)}")
        return route

    @field_validator("init", "autoencoder", "pipeline")
    @classmethod
    def _from_anywhere(cls, folder: str | None) -> str | None:
        return _absolute(folder)

    @field_validator("prompts")
    @classmethod
    def _table_from_anywhere(cls, prompts: str | None) -> str | None:
        return prompts if prompts is None or "{" in prompts else _absolute(prompts)

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionSettings:
        if self.minutes is not None and self.images_seen is not None:
            raise ValueError("set minutes or images_seen, not both")
        if self.route == "auto" and self.autoencoder is not None and self.pipeline is not None:
            raise ValueError("set autoencoder or pipeline, not both, or say with route which one is used")
        return self


class SynthesisSettings(Settings):
    """How the generator fills the pool."""

    sampling_strategy: str | float | dict[int | str, int] | list[int | str] = "auto"
    """Images per class, in imbalanced-learn's vocabulary: auto, minority, not minority, all, or totals."""
    max_synthetic_ratio: Positive | None = 50.0
    """Largest number of synthetic images per real image of a class. null sets no limit."""
    solver: Solver = DEFAULT_SAMPLING.solver
    """Solver. ancestral is random and most diverse with 50 steps or more; heun is a slow reference."""
    num_inference_steps: Steps = DEFAULT_SAMPLING.num_inference_steps
    """Solver steps per image."""
    guidance_method: GuidanceMethod = DEFAULT_SAMPLING.guidance_method
    """Guide away from the average of all classes, or from an early version of the model (autoguidance)."""
    guidance_scale: Scale | tuple[Scale, Scale] | None = None
    """Guidance scale. 1 is none; more is less diverse. A range [low, high] is sampled per chunk. Default: 1, and 2 to 3
    for a pretrained pipeline."""
    variation_fraction: Fraction | None = None
    """Fraction of images that vary a real image instead of starting from noise. Default: 0.25 in classes of up to 50
    images, falling to 0 in classes of 200."""
    transplant_fraction: Fraction | None = None
    """Fraction of the images of a class with masks in which its object is painted into a real image of the background
    class. Default: 0.5 in classes of up to 50 images, falling to 0 in classes of 200."""
    crossed_fraction: Fraction = 0.0
    """Fraction of the images of a class that vary a real image of the background class, under the label of the class.
    A class gets them only if the filters see it in them."""
    mask_from: Literal["difference", "box"] | None = None
    """How masks are drawn in classes without any. difference: where an image differs from those of the background
    class. box: the rectangle around that. Default: none are drawn."""
    filters: tuple[str, ...] = FILTER_NAMES
    """Reasons for rejecting an image. Non-finite images are always rejected. 'unlike real objects' judges what is
    painted in transplants."""
    false_rejection_rate: Annotated[float, Field(gt=0, lt=1)] = 0.08
    """Fraction of the real images of each class that the filters 'wrong class' and 'out of distribution' may each
    reject. More finds more bad images."""
    max_attempts: PositiveInt = 4
    """Candidates per requested image before a class is given up."""

    @model_validator(mode="after")
    def _parts_of_one(self) -> SynthesisSettings:
        fractions = (self.variation_fraction, self.transplant_fraction, self.crossed_fraction)
        if sum(part for part in fractions if part is not None) > 1 + ROUNDING:
            raise ValueError("variation_fraction, transplant_fraction and crossed_fraction together are above 1")
        return self

    @field_validator("sampling_strategy", mode="before")
    @classmethod
    def _plain_classes(cls, strategy: Any) -> Any:
        """Classes given as NumPy scalars and the like; what they mean is decided where the classes are known."""

        def plain(label: Any) -> Any:
            label = label.item() if hasattr(label, "item") else label
            return int(label) if isinstance(label, float) and label.is_integer() else label

        if isinstance(strategy, bool):  # YAML reads `no` and `yes` as such
            raise ValueError(f"a truth value is no strategy; words: {', '.join(SAMPLING_WORDS)}")
        if isinstance(strategy, Mapping):
            return {plain(label): plain(total) for label, total in strategy.items()}
        return [plain(label) for label in strategy] if isinstance(strategy, list | tuple | set) else strategy

    @field_validator("sampling_strategy")
    @classmethod
    def _known_strategy(cls, strategy: Any) -> Any:
        if not isinstance(strategy, str) or strategy in SAMPLING_WORDS:
            return strategy
        try:
            return float(strategy)  # on the command line a number is text
        except ValueError:
            raise ValueError(f"unknown sampling_strategy '{strategy}'; words: {', '.join(SAMPLING_WORDS)}") from None

    @field_validator("filters")
    @classmethod
    def _known_filters(cls, filters: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in filters if name not in FILTER_NAMES]
        if unknown:
            raise ValueError(f"unknown filters {unknown}; there are: {', '.join(FILTER_NAMES)}")
        return filters

    @field_validator("guidance_scale")
    @classmethod
    def _ascending(cls, value: float | tuple[float, float] | None) -> float | tuple[float, float] | None:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("give the lower end of the range first")
        return value

    @property
    def guidance_range(self) -> tuple[float, float]:
        """Lowest and highest guidance scale; that of diffaug's own networks if none is set."""
        scale = DEFAULT_SAMPLING.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return scale if isinstance(scale, tuple) else (scale, scale)

    @property
    def typical_guidance(self) -> float:
        """The guidance scale, or the middle of its range."""
        return sum(self.guidance_range) / 2


class TrackingSettings(Settings):
    """Where results are logged in addition to the study folder."""

    mlflow: bool = True
    """Log to MLflow."""
    experiment: str | None = None
    """MLflow experiment. Default: diffaug/STUDY."""
    model: str | None = None
    """Name under which MLflow registers the generator. Default: diffaug-STUDY."""


class Config(Settings):
    """All settings."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; auto uses CUDA if it is available."""
    encoder: str = "auto"
    """Pretrained network that looks at images: efficientnet-lite0, which auto takes if the extra 'encoder' is
    installed, none, timm/NAME or torchvision/NAME, perhaps with a file of weights: timm/NAME@FILE."""
    data: DataSettings = DataSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()
    advanced: AdvancedSettings = AdvancedSettings()


SECTIONS = tuple(name for name, field in Config.model_fields.items() if isinstance(field.default, Settings))
OF_ONE_CALL = ("device", "evaluation.quick")
"""Settings that a study does not keep: it may continue on another machine, and a first answer is provisional."""
