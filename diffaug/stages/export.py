"""Exports the images of a study for other libraries."""

from diffaug.data.catalog import Catalog
from diffaug.stages.job import Job
from diffaug.stages.review import tell_review
from diffaug.synthesis.export.export import Export, ExportSettings, export_images
from diffaug.synthesis.pool.pool import Pool, without_blind


def export_study(job: Job, catalog: Catalog, settings: ExportSettings) -> Export:
    """Exports the study's images and reports what was written."""
    pool = Pool.open(job.study.pool)
    tell_review(job, pool)
    if not settings.include_blind:
        pool, left_out = without_blind(pool)
        if left_out:
            job.narrator.warn(f"{left_out}; export them anyway with --include-blind")
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
