"""What can be set in every stage, with defaults, ranges and a sentence each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ARM_ROLES: dict[str, Literal["real", "claim", "diagnosis"]] = {
    "real only": "real",
    "strong augmentation": "real",
    "oversampling": "real",
    "replay": "real",
    "prior": "real",
    "balanced softmax": "real",
    "real + unfiltered synthetic": "diagnosis",
    "real + synthetic": "claim",
    "best real + synthetic": "claim",
    "synthetic only": "diagnosis",
}
ARM_NAMES = tuple(ARM_ROLES)
FAST_ARMS = (
    "real only",
    "strong augmentation",
    "oversampling",
    "balanced softmax",
    "real + synthetic",
    "best real + synthetic",
)

FILTER_NAMES = ("constant", "saturated", "off-class", "out of distribution", "copy", "duplicate")

SAMPLING_WORDS = ("auto", "not majority", "minority", "not minority", "all")

Fraction = Annotated[float, Field(ge=0, le=1)]
BatchShare = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(gt=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error.

    YAML reads a class or an experiment named 3 as a number, so numbers are taken as text where text is due.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class DataSettings(Settings):
    """How images on disk become a catalog."""

    image_size: Annotated[int, Field(ge=4, le=512)] | None = Field(
        None, description="Working size in px (short side); none: the images' own, at most 64."
    )
    channels: Literal[1, 3] | None = Field(None, description="1 grey, 3 RGB; none: read off the images.")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of each class held out for testing where the data has no test split."
    )
    min_train_images: PositiveInt = Field(2, description="Smallest number of training images a class may have.")
    near_duplicates: bool = Field(
        True, description="Keep images that show nearly the same picture on one side of every split."
    )


class DiffusionSettings(Settings):
    """How the generator is trained; none means: chosen by the plan."""

    minutes: Positive | None = Field(
        None, description="Training time; none and no images: by number and imbalance of the images."
    )
    images_seen: PositiveInt | None = Field(None, description="Training length in images seen, instead of minutes.")
    preset: Literal["tiny", "small", "medium", "large", "huge"] | None = Field(
        None, description="Size of the UNet; none: by device, budget and number of images."
    )
    objective: Literal["edm", "ddpm"] = Field(
        "edm",
        description="edm: continuous noise levels; ddpm: 1000 discrete steps with a learnt variance range, always in "
        "float32 unless set, and without uncertainty weighting.",
    )
    base_channels: Annotated[int, Field(ge=16, multiple_of=16)] | None = Field(None, description="Width of the UNet.")
    batch_size: PositiveInt | None = Field(None, description="Images a training step.")
    learning_rate: Positive | None = Field(None, description="Peak learning rate of AdamW.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="Dropout inside the UNet's blocks.")
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of labels hidden in training, which makes guidance possible."
    )
    class_temperature: Fraction = Field(
        0.5, description="A class of n images is drawn in proportion to n^q: 1 as found, 0 uniform."
    )
    max_repeats: PositiveInt = Field(
        200, description="A rare class is not drawn more often once each of its images is seen this many times."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: bfloat16 on CUDA from compute capability 8.0 on; on a CPU, with a budget in minutes, where "
        "it is measured to be faster.",
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="Compile the network; auto: on CUDA, where 20 minutes or more are set, if measured to be faster.",
    )
    long_tail: Literal["none", "transfer", "class balancing"] = Field(
        "none", description="Method for rare classes: transfer (OC/T2H) or class balancing (CBDM)."
    )
    long_tail_strength: NonNegative = Field(1.0, description="Strength of class balancing, where that is the method.")
    augmentation: Fraction | None = Field(
        None,
        description="Probability of each geometric augmentation (scale, rotate, stretch, shift) in training; samples "
        "stay free of it. None: by how often each image is seen.",
    )
    augmentation_strength: Fraction = Field(
        0.2, description="Scales augmentation, where there is any: 1 rotates by any angle."
    )
    augmentation_mirrors: bool = Field(
        False, description="Augmentation, where there is any, also mirrors left to right and top to bottom."
    )
    uncertainty_weighting: bool = Field(True, description="Weigh noise levels by their learnt difficulty.")
    holdout: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.05,
        description="Share of each class of 20 images or more that is not trained on, to see what is learnt by heart.",
    )
    copy_check_fraction: Fraction = Field(
        0.02, description="Share of the training time for looking whether training images are copied; 0: never."
    )
    stop_on_copying: bool = Field(
        True, description="End the training once copying sets in, with the weights from before; else only warn."
    )
    horizontal_flip: bool = Field(False, description="Train on mirrored images too, if labels survive mirroring.")
    checkpoint_seconds: Positive = Field(60.0, description="Time between checkpoints.")
    grid_seconds: Positive = Field(60.0, description="Time between sample grids while training.")

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionSettings:
        if self.minutes is not None and self.images_seen is not None:
            raise ValueError("set minutes or images_seen, not both")
        if self.objective == "ddpm" and self.long_tail == "class balancing":
            raise ValueError("class balancing is weighted for the objective edm; with ddpm use transfer or none")
        return self


class SynthesisSettings(Settings):
    """How the generator becomes a pool of images."""

    sampling_strategy: str | float | dict[str, int] | list[str] = Field(
        "auto",
        description="imbalanced-learn's vocabulary: auto, minority, not minority, all, or totals by class.",
    )
    max_synthetic_ratio: Positive | None = Field(
        10.0, description="At most this many synthetic images for each real one of a class; none: no cap."
    )
    solver: Literal["dpm_solver_2m", "heun", "ipndm", "ancestral", "euler"] = Field(
        "dpm_solver_2m", description="ancestral: random, most diverse, with 50 steps or more; heun: a slow reference."
    )
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = Field(12, description="Solver steps an image.")
    guidance_method: Literal["classifier_free", "autoguidance"] = Field(
        "classifier_free", description="Away from: the average of all classes, or an early version of the model."
    )
    guidance_scale: NonNegative | tuple[NonNegative, NonNegative] = Field(
        1.0, description="1: no guidance; more: less diverse. A range [low, high]: drawn at random for each chunk."
    )
    guidance_interval: tuple[NonNegative, NonNegative] = Field(
        (0.28, 1.6), description="Noise levels at which classifier-free guidance acts; [0, 80]: all."
    )
    variation_fraction: Fraction | None = Field(
        None,
        description="Share of images that vary a real one instead of being sampled from noise. None: 0.25 in classes "
        "of up to 50 images, falling to 0 in classes of 200.",
    )
    variation_strength: tuple[Strength, Strength] = Field(
        (0.4, 0.7),
        description="Range of the strength of variations, drawn at random for each chunk: near 0 returns the real "
        "image, 1 forgets it.",
    )
    chunk_size: PositiveInt = Field(32, description="Images sampled together; part of the pool's identity.")
    filters: tuple[str, ...] = Field(
        FILTER_NAMES, description="Reasons for which an image may be rejected; one that is not finite always is."
    )
    false_rejection_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.08,
        description="Share of the real images of each class that each of the filters off-class and out of distribution "
        "may reject: more finds more bad images.",
    )
    copy_false_positive_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.0025, description="Share of new images that the filters for copies and duplicates each may reject."
    )
    filter_max_steps: PositiveInt | None = Field(
        None, description="Optimiser updates of each classifier behind the filters; none: by the data."
    )
    max_attempts: PositiveInt = Field(4, description="Images tried for each one wanted before a class is given up.")

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

    @field_validator("guidance_interval", "guidance_scale", "variation_strength")
    @classmethod
    def _ascending(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("give the lower end of the range first")
        return value


class EvaluationSettings(Settings):
    """How the question 'did the classifier get better?' is answered."""

    thorough: bool = Field(False, description="Compare all arms, with ten seeds and two generators.")
    arms: tuple[str, ...] | None = Field(
        None, description="What is compared; none: six arms, or all where the evaluation is thorough."
    )
    num_seeds: PositiveInt | None = Field(
        None, description="Paired repetitions of every arm; none: 5, or 10 where the evaluation is thorough."
    )
    num_generators: PositiveInt | None = Field(
        None, description="Generators, with a pool each, that seeds take in turn; none: 1, or 2 where it is thorough."
    )
    max_steps: PositiveInt | None = Field(None, description="Optimiser updates of every arm; none: by the data.")
    batch_size: PositiveInt = Field(64, description="Images an update.")
    learning_rate: Positive | None = Field(None, description="Peak learning rate; none: 0.003 for adamw, 0.1 for sgd.")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw",
        description="adamw: one cycle; sgd: the recipe of the long-tail literature, momentum 0.9 and two late drops.",
    )
    classifier: str = Field(
        "small-cnn",
        description="small-cnn, resnet-32, torchvision/NAME, timm/NAME, or features: logistic regression on features "
        "of the real training images' own encoder, which is fastest.",
    )
    checkpoint: str | None = Field(
        None, description="Local file of trained weights for the classifier to begin with, .safetensors, .pt or .pth."
    )
    horizontal_flip: bool = Field(False, description="Also train on mirrored images, if labels survive mirroring.")
    finish: Literal["none", "batch norm", "last layer"] = Field(
        "none",
        description="How arms with real and synthetic images end, on real ones: batch norm takes its statistics from "
        "them; last layer trains on them for the last tenth of the updates.",
    )
    synthetic_fraction: BatchShare | None = Field(
        None, description="Share of each batch that is synthetic; none: chosen on parts of the training images."
    )
    synthetic_fraction_grid: tuple[BatchShare, ...] = Field(
        (0.0, 0.15, 0.3, 0.5), description="Synthetic shares of a batch to choose from; 0: no synthetic images."
    )
    synthetic_loss_weights: tuple[Positive, ...] = Field(
        (1.0,),
        description="Loss weights of a synthetic image to choose from; a real one has 1. Set share: the first. A "
        "thorough evaluation tries half of the chosen one too.",
    )
    max_synthetic_ratios: tuple[Positive | None, ...] = Field(
        (None,),
        description="Synthetic images used of a class for each real one, at most, to choose from; none: all. Set "
        "share: the first. A thorough evaluation tries 3 too.",
    )
    workers: PositiveInt | None = Field(
        None, description="Trainings at a time; none: one a usable core, at most 8, or one a GPU."
    )
    drop_leaked: bool = Field(
        False, description="Leave out test images that the generator has seen, instead of refusing to evaluate."
    )

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, arms: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if arms is None:
            return None
        unknown = [arm for arm in arms if arm not in ARM_NAMES]
        if unknown:
            raise ValueError(f"unknown arms {unknown}; there are: {', '.join(ARM_NAMES)}")
        if not {"real", "claim"} <= {ARM_ROLES[arm] for arm in arms} or len(set(arms)) < len(arms):
            real, claim = ([name for name in ARM_NAMES if ARM_ROLES[name] == role] for role in ("real", "claim"))
            raise ValueError(
                f"name distinct arms, at least one of {', '.join(real)} and at least one of {', '.join(claim)}"
            )
        return arms

    @property
    def compared_arms(self) -> tuple[str, ...]:
        """Names of the arms to train."""
        return self.arms or (ARM_NAMES if self.thorough else FAST_ARMS)

    @property
    def repetitions(self) -> int:
        """Seeds of every arm."""
        return self.num_seeds or (10 if self.thorough else 5)

    @property
    def generator_count(self) -> int:
        """Generators, the study's own included."""
        return self.num_generators or (2 if self.thorough else 1)

    @model_validator(mode="after")
    def _every_generator_is_used(self) -> EvaluationSettings:
        if self.generator_count > self.repetitions:
            raise ValueError(f"{self.generator_count} generators need as many seeds, not {self.repetitions}")
        return self

    @field_validator("synthetic_fraction_grid", "synthetic_loss_weights", "max_synthetic_ratios")
    @classmethod
    def _something_to_choose(cls, values: tuple[float | None, ...]) -> tuple[float | None, ...]:
        if not values:
            raise ValueError("give at least one value")
        return values


class TrackingSettings(Settings):
    """Where results are logged beside the study itself."""

    mlflow: bool = Field(True, description="Log to MLflow.")
    experiment: str | None = Field(None, description="MLflow experiment; none: diffaug/<study>.")
    model: str | None = Field(
        None, description="Name that MLflow registers the generator under, alias newest; none: diffaug-<study>."
    )


class AdvancedSettings(Settings):
    """What hardly anyone has to turn."""

    base_channels: Annotated[int, Field(ge=16, multiple_of=16)] | None = Field(
        None, description="Width of the UNet. Default: the preset's."
    )
    checkpoint_seconds: Positive = Field(60.0, description="Seconds between two checkpoints and sample grids.")
    chunk_size: PositiveInt = Field(32, description="Images sampled together. The pool's images depend on it.")
    filter_max_steps: PositiveInt | None = Field(
        None, description="Optimizer steps of each classifier behind the filters. Default: chosen from the data."
    )
    synthetic_fraction_grid: tuple[BatchShare, ...] = Field(
        (0.0, 0.15, 0.3, 0.5), min_length=1, description="Values of synthetic_fraction to choose from; 0 uses none."
    )


class Config(Settings):
    """Everything that can be set."""

    seed: Annotated[int, Field(ge=0)] = Field(0, description="Where all randomness begins.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    data: DataSettings = DataSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()
    advanced: AdvancedSettings = AdvancedSettings()


SECTIONS = tuple(name for name, field in Config.model_fields.items() if isinstance(field.default, Settings))
