"""The images of a study as files for other libraries."""

from __future__ import annotations

from diffaug.data.catalog import Catalog
from diffaug.stages.job import Job
from diffaug.synthesis.export.export import Export, ExportSettings, export_images
from diffaug.synthesis.pool.pool import Pool


def export_study(job: Job, catalog: Catalog, settings: ExportSettings) -> Export:
    """Exports the study's images and shows what was written.

    Raises:
        UsageError: There is no pool yet, or the request is impossible.
        DamagedError: An image of the pool was changed.
    """
    pool = Pool.open(job.study.pool)
    for reason in pool.unsafe_to_publish:
        job.narrator.warn(f"unsafe to publish: {reason}")
    export = export_images(
        catalog,
        pool,
        settings,
        keep_out_of=(job.study.path, catalog.root),
        progress=lambda done, total: job.narrator.progress("exporting", done, total),
    )
    columns = [(f"{split}, {origin}", found[origin]) for split, found in export.counts.items() for origin in found]
    rows = [[name, *(str(by_class[name]) for _, by_class in columns)] for name in catalog.classes]
    job.narrator.table("Exported", ["class", *(title for title, _ in columns)], rows)
    job.narrator.say(f"{len(export)} images written to {export.path}")
    return export
