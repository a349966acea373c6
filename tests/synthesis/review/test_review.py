import numpy as np
import pytest

from diffaug.errors import DataError, UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.review.summary import ReviewSummary, pool_fingerprint
from tests.conftest import with_blind


def decoded(png: bytes) -> np.ndarray:
    return storage.decode_png(png, (4, 4, 1))


def test_what_a_reviewer_sees_of_an_image(review, catalog) -> None:
    first, second, third = review.images([0, 1, 2])
    assert (first.label, first.file, first.scores) == ("a", "a/00000.png", {"copy_ratio": 0.9, "class_distance": 0.0})
    assert [image.nearest for image in (first, second, third)] == [2, 8, None]
    assert third.nearest_file == "gone.png"
    assert review.images([5])[0].scores == {"class_distance": 5.0}
    assert (decoded(review.gallery.synthetic_png(3)) == 120).all()
    assert (decoded(review.gallery.real_png(2)) == catalog.images("train").pixels[2]).all()
    assert (decoded(review.gallery.real_png(8)) == 77).all()
    assert [review.gallery.real_of(index).tolist() for index in range(3)] == [[0, 1, 2, 3, 4], [5, 6, 7], []]


def test_lists_show_what_is_asked_for_the_worst_first(review) -> None:
    assert review.rows(0, "anna", "all", "") == [0, 1, 2]
    assert review.rows(0, "anna", "all", "copy_ratio") == [1, 2, 0]
    assert review.rows(0, "anna", "all", "class_distance") == [2, 1, 0]
    review.decide(0, "anna", "reject")
    review.decide(0, "ben", "accept")
    review.decide(1, "ben", "accept")
    shown = {show: review.rows(0, "anna", show, "") for show in ("undecided", "rejected", "disputed")}
    assert shown == {"undecided": [1, 2], "rejected": [0], "disputed": [0]}
    assert [(one.name, one.real, one.synthetic, one.reviewed, one.rejected) for one in review.classes()] == [
        ("a", 5, 3, 2, 1),
        ("<b>", 3, 2, 0, 0),
        ("c", 0, 1, 0, 0),
    ]


def test_a_decision_is_on_the_disk_at_once_and_undo_brings_back_the_one_before(review, pool) -> None:
    assert review.decide(4, "anna", "reject").judged == {"anna": "reject"}
    assert Pool.open(pool.root).counts_by_name == {"a": 3, "<b>": 1, "c": 1}
    assert review.decide(4, "anna", "accept").judged == {"anna": "accept"}
    assert len(Pool.open(pool.root)) == 6
    assert review.undo(4, "anna").judged == {"anna": "reject"}
    assert review.undo(4, "anna").judged == {}
    with pytest.raises(UsageError, match="no image 6"):
        review.decide(6, "anna", "reject")


def test_a_pool_is_without_rejected_images_everywhere_and_each_row_keeps_its_pixels(review, pool) -> None:
    for number in (0, 3):
        review.decide(number, "anna", "reject")
    opened = Pool.open(pool.root.parent)
    assert opened.files == tuple(pool.files[number] for number in (1, 2, 4, 5))
    assert opened.images().pixels[:, 0, 0, 0].tolist() == [40, 80, 160, 200]
    assert [int(opened.read(index).max()) for index in range(len(opened))] == [40, 80, 160, 200]
    assert opened.indices_of(1).tolist() == [2]
    assert (opened.whole.files, opened.whole.verify()) == (pool.files, [])


def test_the_fingerprint_changes_with_what_is_left_out_and_not_with_who_said_what(review, pool) -> None:
    before = pool_fingerprint(Pool.open(pool.root))
    review.decide(0, "anna", "accept")
    assert pool_fingerprint(Pool.open(pool.root)) == before
    review.decide(1, "anna", "reject")
    once = pool_fingerprint(Pool.open(pool.root))
    review.decide(1, "ben", "reject")
    assert pool_fingerprint(Pool.open(pool.root)) == once != before
    review.decide(2, "ben", "reject")
    assert pool_fingerprint(Pool.open(pool.root)) not in (once, before)
    review.file.path.unlink()
    assert pool_fingerprint(Pool.open(pool.root)) == before


def test_a_decision_says_nothing_about_a_new_image_of_the_same_name(review, pool, make_pool) -> None:
    review.decide(0, "anna", "reject")
    new = [(0, np.full((4, 4, 1), 9, np.uint8)), (1, np.zeros((4, 4, 1), np.uint8))]
    made = make_pool(pool.root, pool.classes, new)
    assert made.files[0] == pool.files[0]
    assert len(made) == 2
    with pytest.raises(UsageError, match="made anew"):
        review.decide(1, "anna", "reject")
    assert ReviewSummary.of(made).gone == 1
    assert pool_fingerprint(made) == storage.sha256_file(pool.root / "manifest.parquet")


def test_the_summary_counts_images_and_names_reviewers(review, pool) -> None:
    assert review.summary().sentences() == []
    review.decide(0, "anna", "reject")
    review.decide(0, "ben", "accept")
    review.decide(1, "ben", "accept")
    assert review.summary() == ReviewSummary(6, 2, 1, 1, 0, ("anna", "ben"))
    assert review.summary().sentences() == [
        "2 of 6 synthetic images reviewed (anna, ben), 1 rejected and left out",
        "images that reviewers disagree about, left out: 1",
    ]


def test_blind_classes_are_marked_and_their_images_can_be_reviewed(catalog, pool) -> None:
    from diffaug.synthesis.review.gallery import Gallery

    blind = Gallery(catalog, with_blind(pool, "<b>"))
    assert [one.blind for one in blind.counts({})] == [False, True, False]
    assert blind.rows(1, {}) == [3, 4]


def test_a_broken_file_is_refused_when_the_pool_is_opened(review, pool) -> None:
    review.file.path.write_text("nonsense\n")
    with pytest.raises(DataError, match="line 1"):
        Pool.open(pool.root)
