"""`DiffusionAugmenter`: the whole job from Python, as a facade over the stages of one study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from diffaug.augment.materialize import folder_of_unlabeled
from diffaug.augment.sampler import Sampler
from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.networks import Backbone
from diffaug.classifiers.training_set import Classifier
from diffaug.configuration.settings import Config
from diffaug.configuration.sources import resolve
from diffaug.diffusion.planning.planning import Plan
from diffaug.evaluation.experiment.training_task import TrainFunction
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.runtime.console import narrator_of
from diffaug.runtime.distributed import current
from diffaug.stages.arguments import Strategy, given_flags, opened, study_of
from diffaug.stages.catalog import findings_first
from diffaug.stages.costs import plan_job
from diffaug.stages.evaluating.checks import require_accepted_later, require_evaluable
from diffaug.stages.evaluating.evaluate import evaluate_study, own_pool, read_evaluation
from diffaug.stages.evaluating.pilot import prepare_together
from diffaug.stages.evaluating.predictions import evaluate_predictions
from diffaug.stages.evaluating.report import write_study_report
from diffaug.stages.export import export_study
from diffaug.stages.fitting.fit import fit_generator
from diffaug.stages.generating.generate import generate_pool, generate_shard
from diffaug.stages.job import open_job
from diffaug.stages.session import Session, SessionAttributes
from diffaug.synthesis.export.export import Depth, Export, ExportSettings
from diffaug.synthesis.export.items import Only
from diffaug.synthesis.pool.pool import Pool

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from diffaug.data.catalog import Catalog

    Images = str | Path | Dataset[Any]


class DiffusionAugmenter(SessionAttributes, Sampler):
    """Fits a generator on labeled images, generates what rare classes lack, and measures whether it helps.

    Everything is kept in one folder, the study; repeating the same calls resumes where the last ones stopped.

    Args:
        time_budget: Most time that training may take, such as `"10m"`, `"90s"`, `"1h"` or a number of minutes; it ends
            sooner where more does not help. Default: 30 minutes, unless `settings["diffusion.images_seen"]` limits it.
        study: The study's folder. Default: `runs/<name of the data folder>`.
        settings: Any setting of `diffaug.Config` by dotted key, such as `{"synthesis.guidance_scale": 1.5}`.
        recipe: Name or path of a recipe.
        config: A YAML file of settings.
        device: `auto`, `cpu` or `cuda`.
        overwrite: Replace stages that were made with other settings instead of raising.
        verbose: Report progress on stderr, besides the logger "diffaug".
        command: What to print as the way to resume the job.
        image_shape: Height, width and perhaps channels of flat columns in `fit_resample`.
        include_blind: Whether `fit_resample` also adds images of classes that nothing shows them to belong to.
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
        image_shape: Sequence[int] | None = None,
        include_blind: bool = False,
    ) -> None:
        self._configure({name: given for name, given in locals().items() if name != "self"})

    def _configure(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        study, file, command = arguments["study"], arguments["config"], arguments["command"] or "the same calls again"
        self._study_path, self._overwrite = None if study is None else Path(study), arguments["overwrite"]
        flags = given_flags(arguments["time_budget"], seed=arguments["seed"], device=arguments["device"])
        file = None if file is None else Path(file)
        how = {"file": file, "recipe": arguments["recipe"], "command": command, "overwrite": self._overwrite}
        narrator = narrator_of(arguments["verbose"])
        self._session = Session(narrator, {**(arguments["settings"] or {}), **flags}, partial(open_job, **how))

    def _own_settings(self) -> Config:
        file, recipe = self._arguments["config"], self._arguments["recipe"]
        return resolve(self._session.flags, file=None if file is None else Path(file), recipe=recipe).config

    def _continue(self, other: Self) -> None:
        self._session = other._session

    def _open_study(self) -> Path | None:
        return self.study.path if self._session.is_open else None

    @classmethod
    def open(cls, study: str | Path, **arguments: Any) -> Self:
        """Continues an existing study."""
        augmenter = cls(study=study, **arguments)
        augmenter._session.open(opened(Path(study), overwrite=augmenter._overwrite))
        return augmenter

    def fit(self, data: Images, unlabeled: Images | None = None, *, finish: bool = False) -> Self:
        """Trains the generator on the training split of `data`, resumes its training, or keeps the finished one.

        Args:
            data: A folder of images in any usual layout (class folders, splits of them, or a table beside the images),
                or a labeled torch Dataset, whose images are written as PNG into `<study>-images-<their hash>`.
            unlabeled: A further folder or torch Dataset of images of the same kind, whose labels are not looked at.
            finish: End a training that was interrupted where it is; after a pilot, all images are trained on as usual.

        Raises:
            DataError: The images can't be used as they are.
            UsageError: There is nothing to finish.
            Interrupted: Stopped by Ctrl-C; a checkpoint was saved.
        """
        return self.attach(data, unlabeled)._fit(finish=finish)

    def run(self, data: Images, unlabeled: Images | None = None) -> EvaluationResult:
        """Runs the whole job on images as of `fit`: fit, generate, evaluate, report; finished stages are kept.

        Raises:
            DataError: As of `fit`; a class has no test image, or training images show test images.
        """
        self.attach(data, unlabeled)
        with self._session.looking():
            catalog = self._session.prepare_catalog()
            with findings_first(self.job, catalog):
                require_evaluable(self.job, catalog)
        self._fit().generate()
        return self.evaluate()

    def _fit(self, *, finish: bool = False) -> Self:
        with self._session.working(logs=True):
            catalog = self._session.prepare_named_catalog()
            require_accepted_later(self.job, catalog)
            fit_generator(self.job, catalog, finish=finish)
            self._session.load_generator()
        return self

    def attach(self, data: Images, unlabeled: Images | None = None) -> Self:
        """Opens the study of `data`, or makes it begin once a stage has something to keep."""
        study = study_of(data, self._study_path, overwrite=self._overwrite)
        if unlabeled is not None:
            self._session.add_flag("data.unlabeled", str(folder_of_unlabeled(unlabeled, study.path)))
        self._session.open(study)
        return self

    def plan(self) -> Plan:
        """The plan of `fit` and the costs of the whole job, as measured here; nothing is trained, no study begins."""
        with self._session.looking():
            catalog = self._session.prepare_catalog()
            return plan_job(self.job, catalog, renew=not self.study.has_begun)

    def inspect(self) -> Catalog:
        """Reads the images; the catalog holds counts, statuses of files and problems found. No study begins.

        Its `refusal` says why nothing can be trained on the images, and what to do; None if they can be used.
        """
        with self._session.looking():
            return self._session.prepare_catalog(refuse=False)

    def generate(
        self,
        sampling_strategy: Strategy = None,
        *,
        more: Mapping[Any, int] | None = None,
        encoder: Encoder | None = None,
        **settings: Any,
    ) -> Pool:
        """Generates the pool, together with all processes that do the same in this study, or extends it.

        Args:
            sampling_strategy: As in imbalanced-learn. Default: as configured, `"auto"` at first.
            more: Images to add to a finished pool by class, such as `{"defect": 500}`; existing images stay byte
                for byte. Each finished call adds; an interrupted one is resumed.
            encoder: Features for the filters, such as `diffaug.ModuleEncoder(module, "mine")` or
                `diffaug.timm_encoder("resnet18", pretrained=True)`. Default: that of the setting `encoder`, if it
                recognizes more held-out images than networks trained on the images do, else such networks.
            settings: Other settings of the synthesis stage for this call, such as `guidance_scale=1.5`.
        """
        with self._session.sharing(sampling_strategy, settings) as catalog:
            return generate_pool(self.job, catalog, self._session.load_generator(), more=more, encoder=encoder)

    def generate_shard(
        self,
        shard: int,
        shards: int,
        sampling_strategy: Strategy = None,
        *,
        encoder: Encoder | None = None,
        **settings: Any,
    ) -> dict[str, int]:
        """Computes part `shard`, counted from 1, of `shards` parts of the pool; `generate` joins them.

        Returns:
            Images that each class still lacks.
        """
        with self._session.sharing(sampling_strategy, settings, is_shard=True) as catalog:
            generator = self._session.load_generator()
            return generate_shard(self.job, catalog, generator, shard=shard, shards=shards, encoder=encoder)

    def evaluate(
        self,
        *,
        classifier: str | Backbone | Classifier | None = None,
        train_fn: TrainFunction | None = None,
        **settings: Any,
    ) -> EvaluationResult:
        """Trains classifiers with and without the pool for the same number of steps and writes the report.

        Args:
            classifier: A name, as of the setting; or a function of (channels, number of classes, (height, width)) that
                makes a network from float NCHW in [-1, 1] to logits; or an object with `name` and `fit_predict`.
            train_fn: Your own training instead: called with (training set, test pixels uint8 (N, H, W, C), seed), it
                returns labels (N,) or probabilities (N, K). See `diffaug.classifiers.training_set.TrainingSet`.
            settings: Settings of the evaluation stage for this call, such as `num_seeds=10` or `thorough=True`.

        Raises:
            DataError: The generator has seen test images.
        """
        if isinstance(classifier, str):
            settings["classifier"], classifier = classifier, None
        trained = NetworkClassifier.of_factory(classifier) if callable(classifier) else classifier
        flags = {f"evaluation.{key}": value for key, value in settings.items()}
        with self._session.configured(flags), self._session.working(logs=True):
            catalog = self._session.prepare_catalog()
            prepare_together(self.job, catalog)
            with current().main_first():
                result = evaluate_study(self.job, catalog, classifier=trained, train_fn=train_fn)
                if current().is_main:
                    write_study_report(self.job, catalog, own_pool(self.job), result)
        return result

    def evaluate_predictions(self, file: str | Path) -> EvaluationResult:
        """The verdict about a CSV of predictions that your own training made, see `evaluation.predictions.read`."""
        with self._session.working():
            return evaluate_predictions(Path(file), job=self.job, catalog=self._session.prepare_catalog())

    def report(self) -> Path:
        """Writes the report of a finished evaluation again, unless images or pool changed since; returns its path."""
        with self._session.working(logs=True):
            catalog, pool = self._session.prepare_catalog(), own_pool(self.job)
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
        depth: Depth = "8",
        include_blind: bool = False,
    ) -> Export:
        """Writes the real and synthetic images in a format of another library.

        Args:
            out: The folder to make, outside of study and data.
            format: `imagefolder`, `huggingface`, `webdataset`, or one that a plugin adds.
            only: `synthetic` leaves the real images out.
            splits: Which splits. Default: all. Synthetic images belong to `train`.
            shard_size: Images per shard, for webdataset.
            overwrite: Replace an older export in `out`.
            depth: `source` writes 16-bit values as in the files, if those hold more than 8 bits.
            include_blind: Whether synthetic images are exported of classes, too, that nothing shows them to belong to.
        """
        chosen = (format, only, tuple(splits), shard_size, self.config.seed, overwrite, depth, include_blind)
        with self._session.working():
            return export_study(self.job, self._session.prepare_catalog(), ExportSettings(Path(out), *chosen))
