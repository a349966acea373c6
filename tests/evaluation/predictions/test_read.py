"""Foreign predictions: read as text, matched by name, complete, and refused with the line that is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffaug.errors import DataError, UsageError
from diffaug.evaluation.predictions.read import read_predictions
from diffaug.evaluation.verdict.result import summarize

CLASSES = ("01", "1", "NA")
IDS = ("test/01/x.png", "test/1/y.png", "test/1/x.png", "test/NA/z.png")
LABELS = np.array([0, 1, 1, 2])
STUDY = {"classes": CLASSES, "test_ids": IDS, "labels": LABELS}


def rows(arms=("plain", "with synthetic"), seeds=(0, 1), **columns):
    """One correct line an image, arm and seed; more columns by name."""
    names = [CLASSES[label] for label in LABELS]
    return pd.DataFrame(
        [
            {"file_name": file, "arm": arm, "predicted": name, "seed": str(seed), "label": name, **columns}
            for arm in arms
            for seed in seeds
            for file, name in zip(IDS, names, strict=True)
        ]
    )


@pytest.fixture
def read(tmp_path):
    def read(table, **study):
        path = tmp_path / "predictions.csv"
        if isinstance(table, bytes | str):
            path.write_bytes(table if isinstance(table, bytes) else table.encode())
        else:
            table.to_csv(path, index=False)
        return read_predictions(path, **study)

    return read


@pytest.fixture
def refused(read):
    def refused(table, **study):
        with pytest.raises(DataError) as failure:
            read(table, **(study or STUDY))
        assert failure.value.where is not None
        assert failure.value.fix is not None
        return str(failure.value)

    return refused


def test_classes_are_text(read):
    found = read(rows())
    assert (found.classes, found.ids) == (CLASSES, IDS)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert [(t.arm, t.seed) for t in found.trials] == [(a, s) for a in ("plain", "with synthetic") for s in (0, 1)]
    assert all(t.metrics["accuracy"] == 1 and t.predictions == tuple(LABELS) for t in found.trials)
    assert found.roles == {"plain": "real", "with synthetic": "claim"}


def test_lines_may_come_in_any_order_and_name_files_by_base_name(read):
    table = rows()
    table.loc[1, "predicted"] = "NA"
    named = table.assign(file_name=[f.replace("test/NA/", "elsewhere/") for f in table["file_name"]])
    named["file_name"] = [f.replace("test/1/y.png", "y.png") for f in named["file_name"]]
    named["file_name"] = [f.replace("test/01/x", "./test/01/../01/x") for f in named["file_name"]]
    shuffled = named.sample(frac=1, random_state=0).drop(columns="label")
    found = {(t.arm, t.seed): t.predictions for t in read(shuffled, **STUDY).trials}
    assert found["plain", 0] == (0, 2, 1, 2)
    assert found["with synthetic", 1] == tuple(LABELS)


def test_lines_about_ignored_images_do_not_count_and_may_be_absent(read):
    table = rows()
    kept = {**STUDY, "test_ids": (*IDS[:1], *IDS[2:]), "labels": LABELS[[0, 2, 3]], "ignored": IDS[1:2]}
    found = read(table, **kept)
    assert found.trials == read(table[table["file_name"] != IDS[1]], **kept).trials
    assert (found.ids, len(found.trials[0].predictions)) == (kept["test_ids"], 3)


def test_without_a_seed_there_is_one(read):
    assert {t.seed for t in read(rows(seeds=(0,)).drop(columns="seed"), **STUDY).trials} == {0}


def test_spaces_blank_lines_and_a_byte_order_mark_do_not_matter(read):
    text = rows().to_csv(index=False).replace(",", " , ").replace("\n", "\r\n\r\n")
    assert read(("\ufeff" + text).encode(), **STUDY).trials == read(rows(), **STUDY).trials


@pytest.mark.parametrize(
    ("column", "values", "roles"),
    [
        ("role", {"plain": "claim", "more": "diagnosis", "with synthetic": "real"}, ("claim", "diagnosis", "real")),
        ("synthetic", {"plain": "True", "more": "0", "with synthetic": "no"}, ("claim", "real", "real")),
    ],
)
def test_roles_are_told_or_read_off_the_name(read, column, values, roles):
    table = rows(arms=tuple(values))
    table[column] = table["arm"].map(values)
    assert tuple(read(table, **STUDY).roles.values()) == roles


def with_probabilities(table, **changes):
    for number, name in enumerate(CLASSES):
        table[f"p_{name}"] = [("0.2", "0.6")[CLASSES[number] == label] for label in table["label"]]
    for column, (line, value) in changes.items():
        table.loc[line, column] = value
    return table


@pytest.mark.parametrize(
    ("arm", "role"),
    [
        *((name, "real") for name in ("no synthetic", "without synthetic", "non-synthetic", "Non_Synthetic images")),
        *((name, "real") for name in ("nonsynthetic", "w/o synthetic", "not synthetic", "baseline_no_synthetic")),
        *((name, "real") for name in ("without any synthetic images", "0 % synthetic", "0.0% synthetic")),
        *((name, "claim") for name in ("synthetic", "SYNTHETIC2", "no filter, synthetic", "30 % synthetic")),
        ("synthetic-free", "real"),
        *((name, "diagnosis") for name in ("synthetic only", "real + unfiltered synthetic")),
        *((name, "claim") for name in ("1.0 % synthetic", "augmentation: no, synthetic: yes", "synthetic, freeze 2")),
        *(
            (name, "claim")
            for name in ("casino synthetic", "synthetic freeze", "no synthetic pretraining, synthetic finetuning")
        ),
    ],
)
def test_an_arm_without_synthetic_images_by_name_is_real(read, arm, role):
    assert read(rows(arms=("plain", "with synthetic", arm))).roles[arm] == role


def test_probabilities_are_scored_and_rounded_ones_are_normalised(read):
    found = read(with_probabilities(rows()), **STUDY)
    assert found.trials[0].metrics["auroc"] == 1
    assert found.trials[0].metrics["nll"] == pytest.approx(-np.log(0.6))
    rounded = with_probabilities(rows())
    rounded["p_NA"] = [{"0.2": "0.199", "0.6": "0.6"}[p] for p in rounded["p_NA"]]
    assert read(rounded, **STUDY).trials[0].metrics["nll"] == pytest.approx(
        np.mean([-np.log(0.6 / 0.999)] * 3 + [-np.log(0.6)])
    )


def test_an_arm_may_have_no_probabilities(read):
    table = with_probabilities(rows())
    table.loc[table["arm"] == "plain", [f"p_{name}" for name in CLASSES]] = ""
    metrics = [set(t.metrics) for t in read(table, **STUDY).trials]
    assert "ece" not in metrics[0]
    assert "ece" in metrics[2]


def test_what_is_read_can_be_summarised(read):
    table = rows(arms=("plain", "other", "with synthetic"))
    table.loc[0, "predicted"] = "1"
    found = read(table)
    result = summarize(
        found.trials,
        roles=found.roles,
        train_counts={},
        synthetic_counts={},
        test_labels=found.labels,
        classes=found.classes,
    )
    assert result.verdict.baseline == "other"
    assert result.arms[0].metrics["accuracy"]["mean"] == pytest.approx(7 / 8)


def changed(line, column, value):
    table = rows()
    table.loc[line, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "messages"),
    [
        ("", ["can't read the CSV"]),
        (b"\xff\xfe,\x00", ["can't read the CSV"]),
        ("file_name;arm;predicted\na;b;c\n", ["no column file_name and no column arm", "it has: file_name;arm"]),
        ("file_name,arm,predicted\n", ["names no predictions"]),
        ("file_name,arm,arm,predicted\na,b,c,d\n", ["two columns arm"]),
        ("file_name,arm,predicted\ny.png,a,1,extra\n", ["can't read the CSV", "line 2"]),
        ("file_name,arm,predicted\ny.png,a\n", ["the predicted is empty", "line 2"]),
        (changed(5, "arm", ""), ["the arm is empty", "line 7"]),
        (changed(5, "predicted", "2"), ["the predicted '2' is none of the classes 01, 1, NA", "line 7"]),
        (changed(5, "predicted", "1.0"), ["the predicted '1.0'", "line 7"]),
        (changed(5, "label", "dog"), ["the label 'dog' is none of the classes", "line 7"]),
        (changed(5, "label", "01"), ["test/1/y.png is labelled '01' here and '1' in the study", "line 7"]),
        (changed(5, "file_name", "train/q.png"), ["'train/q.png' is no test image", "such as test/01/x.png", "line 7"]),
        (changed(4, "file_name", "x.png"), ["'x.png' is no test image, nor the base name of just one", "line 6"]),
        (changed(6, "file_name", "y.png"), ["arm 'plain', seed 1: test/1/y.png is predicted 2 times", "lines 7, 8"]),
        (changed(5, "seed", "-1"), ["the seed '-1' is not a whole number", "line 7"]),
        (changed(5, "seed", "1.0"), ["the seed '1.0'", "line 7"]),
        (changed(5, "seed", "9" * 30), ["is not a whole number", "line 7"]),
        (rows().drop(6), ["arm 'plain', seed 1: 1 of 4 test images have no prediction: test/1/x.png"]),
        (rows().drop(range(4)), ["arm 'plain' has no seed 0"]),
        (rows(role="best"), ["the role 'best' is none of real, claim, diagnosis", "line 2"]),
        (rows(synthetic="maybe"), ["the synthetic 'maybe' is neither true nor false", "line 2"]),
        (rows().assign(role=["real", *["claim"] * 15]), ["arm 'plain' is claim here and real in an earlier", "line 3"]),
        (with_probabilities(rows(), p_1=(3, "much")), ["0.2, much, 0.6 are not numbers from 0 to 1", "line 5"]),
        (with_probabilities(rows(), p_1=(3, "nan")), ["are not numbers", "line 5"]),
        (with_probabilities(rows(), p_1=(3, "")), ["are not numbers", "line 5"]),
        (with_probabilities(rows(), p_1=(3, "-0.2")), ["are not numbers", "line 5"]),
        (with_probabilities(rows(), p_1=(3, "0.3")), ["that add up to 1", "line 5"]),
        (with_probabilities(rows()).drop(columns="p_NA"), ["there is no column p_NA"]),
        (with_probabilities(rows()).assign(p_value="0.1"), ["there is no class for p_value"]),
    ],
)
def test_what_is_wrong_is_said_with_its_line(refused, table, messages):
    text = refused(table)
    assert all(message in text for message in messages), text


def test_probabilities_of_some_images_only_are_refused(refused):
    table = with_probabilities(rows())
    table.loc[6, [f"p_{name}" for name in CLASSES]] = ""
    text = refused(table)
    assert "the probabilities are empty here" in text
    assert "line 8" in text


def test_without_a_study_the_labels_are_needed_and_must_agree(refused, read, tmp_path):
    path = tmp_path / "predictions.csv"
    rows().drop(columns="label").to_csv(path, index=False)
    with pytest.raises(DataError, match="no column label"):
        read_predictions(path)
    changed(9, "label", "01").to_csv(path, index=False)
    with pytest.raises(DataError, match=r"test/1/y.png is labelled '01' here and '1' in an earlier line") as failure:
        read_predictions(path)
    assert failure.value.where.endswith("line 11")


def test_images_that_no_line_is_about_are_named_without_labels_too(refused):
    table = rows()
    text = refused(table[table["file_name"] != IDS[2]], classes=CLASSES, test_ids=IDS)
    assert "1 of 4 test images have no prediction: test/1/x.png" in text


def test_a_class_without_test_images_is_refused(refused):
    assert "no test image of: dog" in refused(rows(), classes=(*CLASSES, "dog"), test_ids=IDS, labels=LABELS)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (("plain", "mine"), "no arm is a claim: 'plain' is real, 'mine' is real"),
        (("1 % synthetic", "2 % synthetic"), "no arm is real: '1 % synthetic' is claim"),
    ],
)
def test_arms_of_which_nothing_can_be_compared_are_refused_with_their_roles(refused, arms, message):
    text = refused(rows(arms=arms))
    assert message in text
    assert "predictions.csv" in text


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"there is no such file[\s\S]*none\.csv"):
        read_predictions(tmp_path / "none.csv")
