"""One user at work on one study: which settings hold, who else may use the study, what was read already."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffaug.configuration.settings import Config
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import NotFittedError, UsageError
from diffaug.files import storage
from diffaug.files.temporaries import remove_all_leftovers, scratch_folder
from diffaug.runtime.console import Narrator, SilentNarrator
from diffaug.runtime.distributed import current
from diffaug.stages.arguments import Strategy, synthesis_flags
from diffaug.stages.catalog import prepare_catalog
from diffaug.stages.former import is_unsettled, settle_former
from diffaug.stages.generating.request import with_class_names
from diffaug.stages.job import Job
from diffaug.stages.remedies import taking_back, telling_remedies
from diffaug.study import Study
from diffaug.tracking.delivery import logged_links

READ_ONLY = (EACCES, EPERM, EROFS)


@dataclass
class Session:
    """A study in use."""

    narrator: Narrator
    flags: Mapping[str, Any]
    open_job: Callable[..., Job]  # `stages.job.open_job`, with the arguments that stay the same
    trackers: list[str] = field(default_factory=list)  # where the last stage was logged, in sentences
    _job: Job | None = None
    _catalog: Catalog | None = None
    _generator: Generator | None = None
    _scratch: TemporaryDirectory[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a study is in use."""
        return self._job is not None

    @property
    def job(self) -> Job:
        """The job in progress."""
        if self._job is None:
            raise NotFittedError(
                "this augmenter has no data yet", fix="call fit(data) first, or DiffusionAugmenter.open(study)"
            )
        return self._job

    @property
    def catalog(self) -> Catalog:
        """The catalog of the last call, or the one in the study; the data folder is not looked at."""
        if self._catalog is None:
            folder = self.job.study.catalog
            if not self.job.study.has_begun or not folder.exists():  # before, it may be of other images
                raise NotFittedError("the images were not read yet", where=folder, fix="call fit(data)")
            with telling_remedies(self.job.study):
                self._catalog = Catalog.load(folder)
        return self._catalog

    @property
    def generator(self) -> Generator:
        """The trained generator, loaded once."""
        try:
            return self._generator or self.load_generator()
        except UsageError as error:
            raise NotFittedError("there is no trained generator yet", where=error.where, fix=error.fix) from error

    def add_flag(self, key: str, value: Any) -> None:
        """Gives a setting a value from the next `open` on."""
        self.flags = {**self.flags, key: value}

    def open(self, study: Study) -> None:
        """Takes up a study."""
        self._catalog = self._generator = None
        with telling_remedies(study), current().main_first():
            self._job = self.open_job(study, self.narrator, flags=self.flags)

    def prepare_catalog(self, *, refuse: bool = True) -> Catalog:
        """The catalog, made or brought up to date; see `stages.catalog.prepare_catalog`."""
        with current().main_first():
            self._catalog = prepare_catalog(self.job, refuse=refuse)
        return self._catalog

    def prepare_named_catalog(self) -> Catalog:
        """The catalog; from here on the settings hold the names of classes in place of other labels."""
        catalog = self.prepare_catalog()
        self._job = with_class_names(self.job, catalog)
        return catalog

    def load_generator(self) -> Generator:
        """The generator as it is in the study now; a UsageError that says how to train one if there is none."""
        study = self.job.study
        with telling_remedies(study):
            is_finished = storage.recorded_metadata(study.generator) is not None
        if not is_finished:
            fix = shlex.join(["diffaug", "fit", str(study.record.data), "--study", str(study.path)])
            raise UsageError("the study has no finished generator", where=study.path, fix=fix)
        with telling_remedies(study):
            self._generator = Generator.load(self.job.study.generator, device=self.job.device)
        return self._generator

    @contextmanager
    def configured(self, flags: Mapping[str, Any]) -> Iterator[None]:
        """Uses other settings in the block; afterwards those of before hold, and what each stage was begun with."""
        if not flags:
            yield
            return
        outer = self.job
        inner = self.open_job(outer.study, self.narrator, flags={**self.flags, **flags})
        self._job = replace(inner, lasting=outer.lasting)
        try:
            yield
        finally:
            self._job = replace(self.open_job(outer.study, SilentNarrator(), flags=self.flags), narrator=self.narrator)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Keeps other processes out while images are looked at; leaves nothing but the catalog.

        Where the folder of the study can't be written, the catalog lasts as long as this session.
        """
        with telling_remedies(self.job.study), closing(self.narrator), ExitStack() as held:
            try:
                held.enter_context(self.job.study.locked())
                self._clear_leftovers()
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise
                held.enter_context(self._in_scratch())
            self.job.study.require_free()
            yield

    @contextmanager
    def _in_scratch(self) -> Iterator[None]:
        """Works in a temporary folder in place of the study's, as if the study had not begun."""
        study = self.job.study
        self._scratch = scratch_folder()
        self._job = replace(self.job, study=Study(Path(self._scratch.name), study.record))
        try:
            yield
        finally:
            self._job = replace(self.job, study=study)

    def _clear_leftovers(self) -> None:
        """Removes what a killed process left half-written."""
        if current().is_main:
            remove_all_leftovers(self.job.study.path)
            if is_unsettled(self.job.study):
                with self.job.study.in_turn(optional=True):
                    settle_former(self.job.study)

    @contextmanager
    def working(self, *, logs: bool = False) -> Iterator[None]:
        """Keeps other processes out of the study while a stage works, which may log something for trackers."""
        with telling_remedies(self.job.study), closing(self.narrator), self.job.study.locked():
            self._clear_leftovers()
            self.job.study.require_free()
            self.job.journal.refresh()
            sending = self.job.sending() if logs else nullcontext(self.trackers)
            with sending as self.trackers, taking_back(self.job.study):
                yield

    @contextmanager
    def sharing(self, strategy: Strategy, settings: Mapping[str, Any], *, is_shard: bool = False) -> Iterator[Catalog]:
        """Shares the study with processes that fill the same pool and keeps all others out; yields the catalog.

        A shard logs nothing and continues where the file system has no locks.
        """
        study, sending = self.job.study, nullcontext(self.trackers) if is_shard else self.job.sending()
        told = telling_remedies(study)
        with told, closing(self.narrator), study.shared(optional=is_shard), sending as self.trackers:
            self._clear_leftovers()
            with study.in_turn(optional=is_shard):
                catalog = self.prepare_named_catalog()
            counts, class_to_idx = catalog.counts_by_name("train"), study.record.class_to_idx
            flags = synthesis_flags(strategy, settings, counts, class_to_idx)
            with self.configured(flags), taking_back(study):
                self._job = with_class_names(self.job, catalog)
                yield catalog


class SessionAttributes:
    """What an object that works on a study shows of it; names with an underscore are there after `fit`."""

    _session: Session

    @property
    def job(self) -> Job:
        """The job in progress, once data was given."""
        return self._session.job

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
        return self._session.generator

    @property
    def classes_(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self._session.catalog.classes

    @property
    def class_counts_(self) -> dict[str, int]:
        """Training images of each class."""
        return self._session.catalog.counts_by_name("train")

    @property
    def trackers_(self) -> list[str]:
        """Where the last stage was logged, in sentences."""
        return self._session.trackers

    @property
    def runs_(self) -> dict[str, dict[str, str | None]]:
        """Where the study's run is, by tracker: `run_id`, `experiment_id`, `tracking_uri` and, for a server, `url`."""
        return logged_links(self.study)
