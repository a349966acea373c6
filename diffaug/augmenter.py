"""`DiffusionAugmenter`: the whole job from Python, as a facade over the stages of one study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from diffaug.augment.materialize import folder_of_dataset, materialize
from diffaug.classifiers.encoders import Encoder
from diffaug.classifiers.fit import Backbone
from diffaug.classifiers.training import Classifier, NetworkClassifier
from diffaug.configuration.settings import Config
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.planning.planning import Plan
from diffaug.errors import UsageError
from diffaug.evaluation.experiment.experiment import TrainFunction
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.runtime.console import ConsoleNarrator, Narrator, SilentNarrator
from diffaug.stages.arguments import Strategy, minutes_of, strategy_in_words
from diffaug.stages.catalog import prepare_catalog
from diffaug.stages.evaluating.evaluate import evaluate_study, read_evaluation, require_evaluable
from diffaug.stages.evaluating.predictions import judge_predictions
from diffaug.stages.evaluating.report import write_study_report
from diffaug.stages.export import export_study
from diffaug.stages.fitting.fit import fit_generator, plan_training
from diffaug.stages.generating.generate import generate_pool, generate_shard
from diffaug.stages.generating.request import targets_asked_for
from diffaug.stages.job import Job, open_job
from diffaug.study import Study, default_study_path, open_or_create_study, open_study
from diffaug.synthesis.export.export import Export, ExportSettings
from diffaug.synthesis.export.items import Only
from diffaug.synthesis.pool.pool import Pool
from diffaug.tracking.channel import logged_links

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from diffaug.data.catalog import Catalog


class DiffusionAugmenter:
    """Fits a generator on labelled images, generates what rare classes lack, and measures whether it helps.

    Everything is kept in one folder, the study; the same calls again go on where the last ones stopped.

    Args:
        time_budget: Length of the generator's training, such as `"10m"`, `"90s"`, `"1h"` or a number of
            minutes. None: `settings["diffusion.images_seen"]`, or by number and imbalance of the images.
        study: The study's folder; None: `runs/<name of the data folder>`.
        settings: Any setting of `diffaug.Config` by dotted key, such as `{"synthesis.guidance_scale": 1.5}`.
        recipe: Name or path of a recipe.
        config: A YAML file of settings.
        seed: Where all randomness begins.
        device: `auto`, `cpu` or `cuda`.
        overwrite: Replace stages that were made with other settings instead of raising.
        verbose: Narrate on stderr.
        command: How to go on after an interruption, as printed.

    Attributes:
        trackers_: Where the last stage was logged, in sentences.
    """

    def __init__(
        self,
        *,
        time_budget: str | float | None = None,
        study: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        recipe: str | None = None,
        config: str | Path | None = None,
        seed: int | None = None,
        device: str | None = None,
        overwrite: bool = False,
        verbose: bool = True,
        command: str | None = None,
    ) -> None:
        given = {"diffusion.minutes": minutes_of(time_budget), "seed": seed, "device": device}
        self._flags = {**(settings or {}), **{key: value for key, value in given.items() if value is not None}}
        self._study_path = None if study is None else Path(study)
        self._recipe, self._file = recipe, None if config is None else Path(config)
        self._overwrite = overwrite
        self._command = command or "the same calls again"
        self._narrator: Narrator = ConsoleNarrator() if verbose else SilentNarrator()
        self._job: Job | None = None
        self.trackers_: list[str] = []
        self._record = True

    @classmethod
    def open(cls, study: str | Path, *, record: bool = True, **arguments: Any) -> Self:
        """Continues an existing study.

        Args:
            study: Its folder.
            record: Whether to save the settings and log in the study. A shard does not: its machine may share the
                folder with others and have no locks.
            arguments: As of the constructor.

        Raises:
            UsageError: There is no study.
        """
        augmenter = cls(study=study, **arguments)
        augmenter._record = record
        augmenter._open(open_study(Path(study)))
        return augmenter

    def fit(self, data: str | Path | Dataset[Any]) -> Self:
        """Trains the generator on the training split of `data`, or resumes, or finds it finished.

        Args:
            data: A folder (class folders, train/val/test folders, or a CSV of file_name,label), or a labelled
                torch Dataset, whose images are written as PNG into `<study>-images-<their hash>`.

        Raises:
            DataError: The images can't be used as they are.
            UsageError: A wrong path or setting, or a study of other data.
            Interrupted: Stopped by Ctrl-C; a checkpoint was saved.
        """
        return self.attach(data)._fit()

    def run(self, data: str | Path | Dataset[Any]) -> EvaluationResult:
        """The whole job: fit, generate, evaluate, report; what is finished already is kept.

        Args:
            data: As of `fit`; every class needs a test image, or enough images that one can be held out.

        Raises:
            DataError: The images can't be used as they are, a class has no test image, or training images show test
                images.
            UsageError: A wrong path or setting, or a study of other data.
            Interrupted: Stopped by Ctrl-C; a checkpoint was saved.
        """
        self.attach(data)
        require_evaluable(self.job, self.inspect())
        self._fit().generate()
        return self.evaluate()

    def _fit(self) -> Self:
        with self._working(logs=True):
            catalog = self._catalog()
            targets_asked_for(self.job, catalog)  # a wrong strategy is better known before hours of training
            fit_generator(self.job, catalog)
        return self

    def attach(self, data: str | Path | Dataset[Any]) -> Self:
        """Begins or opens the study for `data` without training anything."""
        if isinstance(data, str | Path):
            root = Path(data)
            if not root.is_dir():
                what = "this is a file, not a folder" if root.exists() else "there is no such folder"
                raise UsageError(what, where=root, fix="give the folder that holds the images")
            path = self._study_path or default_study_path(root)
        else:
            path = self._study_path or default_study_path(Path("dataset"))
            root = folder_of_dataset(data, path)
            if path.exists():  # a study of other images is refused before any are written
                open_or_create_study(path, root)
            materialize(data, root)
        self._open(open_or_create_study(path, root))
        return self

    def plan(self) -> Plan:
        """What `fit` would do, at the speed measured here; nothing is trained."""
        with self._working():
            return plan_training(self.job, self._catalog().images("train"), measure=True)

    def inspect(self) -> Catalog:
        """Reads the images; the catalog holds counts, verdicts of every file and the problems found."""
        with self._working():
            return self._catalog()

    def generate(
        self,
        sampling_strategy: Strategy = None,
        *,
        more: Mapping[str, int] | None = None,
        encoder: Encoder | None = None,
        **settings: Any,
    ) -> Pool:
        """Fills the pool, together with all other processes that do the same in this study, or extends it.

        Args:
            sampling_strategy: As in imbalanced-learn; None: as configured, `"auto"` at first.
            more: Images to add to a finished pool by class name, such as `{"defect": 500}`; what is there stays byte
                for byte. Each finished call adds; one that was interrupted goes on.
            encoder: What the filters see images with, such as `diffaug.ModuleEncoder(module, "mine")` or
                `diffaug.timm_encoder("resnet18")`; None: a classifier trained on the training images.
            settings: Other settings of the synthesis stage, such as `guidance_scale=1.5`.

        Raises:
            UsageError: There is no generator yet, an impossible strategy, or no finished pool to extend.
        """
        self._configure_synthesis(sampling_strategy, settings)
        with self._sharing():
            with self.study.in_turn():
                catalog = self._catalog()
            return generate_pool(self.job, catalog, self.generator_, more=more, encoder=encoder)

    def generate_shard(
        self,
        shard: int,
        shards: int,
        sampling_strategy: Strategy = None,
        *,
        encoder: Encoder | None = None,
        **settings: Any,
    ) -> dict[str, int]:
        """Computes one of several disjoint parts of the pool, for the jobs of an array; `generate` joins them.

        Args:
            shard: Number of the part, from 1.
            shards: Number of parts.
            sampling_strategy: As of `generate`.
            encoder: As of `generate`.
            settings: As of `generate`.

        Returns:
            Images that each class still lacks.

        Raises:
            UsageError: There is no generator yet, an impossible strategy, or no such part.
        """
        self._configure_synthesis(sampling_strategy, settings)
        with self._sharing(optional=True):
            with self.study.in_turn(optional=True):
                catalog = self._catalog()
            generator = self.generator_
            return generate_shard(self.job, catalog, generator, shard=shard, shards=shards, encoder=encoder)

    def _configure_synthesis(self, sampling_strategy: Strategy, settings: Mapping[str, Any]) -> None:
        strategy = strategy_in_words(sampling_strategy, lambda: self.class_counts_)
        chosen = {"sampling_strategy": strategy} if strategy is not None else {}
        self._configure({f"synthesis.{key}": value for key, value in {**chosen, **settings}.items()})

    def evaluate(
        self,
        *,
        classifier: str | Backbone | Classifier | None = None,
        train_fn: TrainFunction | None = None,
        **settings: Any,
    ) -> EvaluationResult:
        """Trains classifiers with and without the pool on the same updates and writes the report.

        Args:
            classifier: What to train: a name, as of the setting; a function of (channels, number of classes, (height,
                width)) that makes a network from float NCHW in [-1, 1] to logits, trained by several processes where
                `workers` is set and they can import it; or an object with `name` and `fit_predict`. None: as
                configured.
            train_fn: Your own training instead: called with (training set, test pixels uint8 (N, H, W, C), seed), it
                returns labels (N,) or probabilities (N, K). See
                `diffaug.classifiers.training.TrainingSet`.
            settings: Settings of the evaluation stage, such as `seeds=10` or `thorough=True`.

        Raises:
            UsageError: There is no pool yet, or `train_fn` returned something else.
            DataError: The generator has seen test images.
            Interrupted: Stopped by Ctrl-C; what is finished is kept.
        """
        if isinstance(classifier, str):
            settings["classifier"], classifier = classifier, None
        if settings.get("thorough"):
            settings = {"arms": None, "seeds": None, "generators": None, **settings}
        self._configure({f"evaluation.{key}": value for key, value in settings.items()})
        trained = NetworkClassifier.of_factory(classifier) if callable(classifier) else classifier
        with self._working(logs=True):
            catalog = self._catalog()
            result = evaluate_study(self.job, catalog, classifier=trained, train_fn=train_fn)
            write_study_report(self.job, catalog, Pool.open(self.study.pool), result)
        return result

    def judge_predictions(self, file: str | Path) -> EvaluationResult:
        """The verdict about predictions of the test images that your own training made for each arm.

        Args:
            file: A CSV of file_name, arm, predicted, and if you like seed, role and p_<class>; see
                `evaluation.predictions.read_predictions`.

        Raises:
            DataError: A column, value, line or file is missing, doubled, unknown, or contradicts another.
        """
        with self._working():
            return judge_predictions(Path(file), job=self.job, catalog=self._catalog())

    def report(self) -> Path:
        """Writes the report of a finished evaluation again; returns its path.

        Raises:
            UsageError: There is no evaluation yet, or the images or the pool changed since.
        """
        with self._working(logs=True):
            catalog, pool = self._catalog(), Pool.open(self.study.pool)
            write_study_report(self.job, catalog, pool, read_evaluation(self.job, catalog, pool))
        return self.study.report

    def export(
        self,
        out: str | Path,
        format: str = "imagefolder",  # noqa: A002
        only: Only = "all",
        *,
        splits: Sequence[str] = (),
        shard_size: int = 1000,
        overwrite: bool = False,
    ) -> Export:
        """Writes the real and synthetic images for other libraries to load.

        Args:
            out: The folder to make, outside of study and data.
            format: `imagefolder`, `huggingface`, `webdataset`, or one that a plugin adds.
            only: `synthetic` leaves the real images out.
            splits: Which splits; none: all. Synthetic images belong to `train`.
            shard_size: Images a shard, for webdataset.
            overwrite: Replace an older export in `out`.

        Raises:
            UsageError: There is no pool yet, an unknown format, or a folder that can't be used.
            DamagedError: An image of the pool was changed.
        """
        settings = ExportSettings(Path(out), format, only, tuple(splits), shard_size, self.config.seed, overwrite)
        with self._working():
            return export_study(self.job, self._catalog(), settings)

    @property
    def job(self) -> Job:
        """The job in progress.

        Raises:
            UsageError: No data was given yet.
        """
        if self._job is None:
            raise UsageError("call fit(data) first, or DiffusionAugmenter.open(study)")
        return self._job

    @property
    def study(self) -> Study:
        """Where everything is kept."""
        return self.job.study

    @property
    def config(self) -> Config:
        """The resolved settings."""
        return self.job.config

    @property
    def generator_(self) -> Generator:
        """The trained generator."""
        return Generator.load(self.study.generator, device=self.job.device)

    @property
    def runs_(self) -> dict[str, dict[str, str | None]]:
        """Where the study's run is, by tracker: `run_id`, `experiment_id`, `tracking_uri` and, for a server, `url`."""
        return logged_links(self.study)

    @property
    def classes_(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self._catalog().classes

    @property
    def class_counts_(self) -> dict[str, int]:
        """Training images of each class."""
        return self._catalog().images("train").counts_by_name

    def _open(self, study: Study) -> None:
        optional = not self._record
        with study.shared(optional=optional), study.in_turn(optional=optional):
            self._job = open_job(
                study,
                self._narrator,
                flags=self._flags,
                file=self._file,
                recipe=self._recipe,
                command=self._command,
                overwrite=self._overwrite,
                record=self._record,
            )

    @contextmanager
    def _working(self, *, logs: bool = False) -> Iterator[None]:
        """Keeps other processes out of the study, and the screen in order whatever happens.

        Args:
            logs: Whether the stage records something that trackers are to have.
        """
        with closing(self._narrator), self.study.locked():
            self._job = self.job.current()
            with self._sending() if logs else nullcontext():
                yield

    @contextmanager
    def _sharing(self, *, optional: bool = False) -> Iterator[None]:
        """Keeps out those who want the study to themselves, but not others who fill the same pool."""
        sending = nullcontext() if optional else self._sending()
        with closing(self._narrator), self.study.shared(optional=optional), sending:
            yield

    @contextmanager
    def _sending(self) -> Iterator[None]:
        with self.job.sending() as self.trackers_:
            yield

    def _configure(self, flags: Mapping[str, Any]) -> None:
        if flags:
            self._flags = {**self._flags, **flags}
            self._open(self.study)

    def _catalog(self) -> Catalog:
        return prepare_catalog(self.job)
