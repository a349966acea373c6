import numpy as np
import pandas as pd
import pytest

from diffaug.errors import DataError, UsageError
from diffaug.evaluation.predictions.read import read_predictions

CLASSES = ("01", "1", "NA")
IDS = ("test/01/x.png", "test/1/y.png", "test/1/x.png", "test/NA/z.png")
LABELS = np.array([0, 1, 1, 2])
STUDY = {"classes": CLASSES, "test_ids": IDS, "labels": LABELS}
PLAIN, MINE = "real + synthetic", "real only"  # names that suggest the opposite role
ROLES = {PLAIN: "baseline", MINE: "candidate"}


def rows(seeds=(0, 1), **columns):
    """One correct line per image, arm and seed; more columns by name."""
    names = [CLASSES[label] for label in LABELS]
    lines = [
        {"file_name": file, "arm": arm, "role": ROLES[arm], "predicted": name, "seed": str(seed), "label": name}
        for arm in ROLES
        for seed in seeds
        for file, name in zip(IDS, names, strict=True)
    ]
    return pd.DataFrame(lines).assign(**columns)


@pytest.fixture
def read(tmp_path):
    def read(table, **study):
        path = tmp_path / "predictions.csv"
        text = table if isinstance(table, bytes | str) else table.to_csv(index=False)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_predictions(path, **study)

    return read


@pytest.fixture
def refused(read):
    def refused(table, **study):
        with pytest.raises(DataError) as failure:
            read(table, **study)
        assert None not in (failure.value.where, failure.value.fix)
        return str(failure.value)

    return refused


def test_classes_are_text(read):
    found = read(rows())
    assert found.classes == CLASSES
    np.testing.assert_array_equal(found.labels, LABELS)
    assert [(t.arm, t.seed) for t in found.trials] == [(a, s) for a in ROLES for s in (0, 1)]
    assert all(t.metrics["accuracy"] == 1 and t.predictions == tuple(LABELS) for t in found.trials)
    assert found.roles == ROLES


def test_lines_may_come_in_any_order_and_name_files_by_base_name(read):
    table = rows()
    table.loc[1, "predicted"] = "NA"
    for name, other in {"test/NA/": "elsewhere/", "test/1/y.png": "y.png", "test/01/x": "./test/01/../01/x"}.items():
        table["file_name"] = table["file_name"].str.replace(name, other)
    shuffled = table.sample(frac=1, random_state=0).drop(columns="label")
    found = {(t.arm, t.seed): t.predictions for t in read(shuffled, **STUDY).trials}
    assert (found[PLAIN, 0], found[MINE, 1]) == ((0, 2, 1, 2), tuple(LABELS))


def test_lines_about_ignored_images_do_not_count_and_may_be_absent(read):
    table = rows()
    kept = {**STUDY, "test_ids": (*IDS[:1], *IDS[2:]), "labels": LABELS[[0, 2, 3]], "ignored": IDS[1:2]}
    found = read(table, **kept)
    assert found.trials == read(table[table["file_name"] != IDS[1]], **kept).trials
    assert len(found.trials[0].predictions) == 3


def test_a_missing_seed_is_0_and_spaces_blank_lines_and_a_byte_order_mark_do_not_matter(read):
    one_seed = rows(seeds=(0,))
    text = one_seed.drop(columns="seed").to_csv(index=False).replace(",", " , ").replace("\n", "\r\n\r\n")
    assert read(("\ufeff" + text).encode(), **STUDY).trials == read(one_seed, **STUDY).trials


def with_probabilities(table, **changes):
    for number, name in enumerate(CLASSES):
        table[f"p_{name}"] = [("0.2", "0.6")[CLASSES[number] == label] for label in table["label"]]
    for column, (line, value) in changes.items():
        table.loc[line, column] = value
    return table


def test_probabilities_are_scored_and_rounded_ones_are_normalized(read):
    table = with_probabilities(rows())
    metrics = read(table, **STUDY).trials[0].metrics
    assert (metrics["auroc"], metrics["nll"]) == pytest.approx((1, -np.log(0.6)))
    table["p_NA"] = table["p_NA"].replace("0.2", "0.199")
    expected = np.mean([-np.log(0.6 / 0.999)] * 3 + [-np.log(0.6)])
    assert read(table, **STUDY).trials[0].metrics["nll"] == pytest.approx(expected)
    table = with_probabilities(rows())  # and an arm may have none
    table.loc[table["arm"] == PLAIN, [f"p_{name}" for name in CLASSES]] = ""
    assert ["ece" in t.metrics for t in read(table, **STUDY).trials] == [False, False, True, True]


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
        (rows().drop(columns="role"), ["the CSV has no column role"]),
        ("file_name,arm,role,predicted\n", ["has no predictions"]),
        ("file_name,arm,arm,role,predicted\na,b,c,d,e\n", ["two columns arm"]),
        ("file_name,arm,role,predicted\ny.png,a,baseline,1,extra\n", ["can't read the CSV", "line 2"]),
        ("file_name,arm,role,predicted\ny.png,a,baseline\n", ["the predicted is empty", "line 2"]),
        (changed(5, "arm", ""), ["the arm is empty", "line 7"]),
        (changed(5, "predicted", "1.0"), ["the predicted '1.0' is not one of: 01, 1, NA", "line 7"]),
        (changed(5, "label", "01"), ["test/1/y.png is labeled '01' here and '1' in the study", "line 7"]),
        (changed(5, "file_name", "train/q.png"), ["'train/q.png' is neither a test", "like test/01/x.png", "line 7"]),
        (changed(4, "file_name", "x.png"), ["'x.png' is neither a test image nor the base name of", "line 6"]),
        (changed(6, "file_name", "y.png"), ["'real + synthetic', seed 1: test/1/y.png is predicted 2 ", "lines 7, 8"]),
        (changed(5, "seed", "1.0"), ["the seed '1.0' is not a whole number", "line 7"]),
        (changed(5, "seed", "9" * 30), ["is not a whole number", "line 7"]),
        (rows().drop(6), ["arm 'real + synthetic', seed 1: 1 of 4 test images have no prediction: test/1/x.png"]),
        (rows().drop(range(4)), ["arm 'real + synthetic' has no seed 0"]),
        (rows(role="best"), ["the role 'best' is not one of: baseline, candidate, ablation", "line 2"]),
        (changed(1, "role", "candidate"), ["'real + synthetic' is candidate here and baseline in an", "line 3"]),
        (rows(role="baseline"), ["no arm is a candidate; 'real + synthetic' is baseline, 'real only' is baseline"]),
        (rows(role="candidate"), ["no arm is a baseline; 'real + synthetic' is candidate"]),
        (with_probabilities(rows(), p_1=(3, "much")), ["0.2, much, 0.6 are not numbers from 0 to 1", "line 5"]),
        (with_probabilities(rows(), p_01=(6, ""), p_1=(6, ""), p_NA=(6, "")), ["are empty here", "line 8"]),
        (with_probabilities(rows(), p_1=(3, "")), ["are not numbers", "line 5"]),
        (with_probabilities(rows(), p_1=(3, "-0.2")), ["are not numbers", "line 5"]),
        (with_probabilities(rows(), p_1=(3, "0.3")), ["with the sum 1", "line 5"]),
        (with_probabilities(rows()).drop(columns="p_NA"), ["there is no column p_NA"]),
        (with_probabilities(rows()).assign(p_value="0.1"), ["there is no class for p_value"]),
    ],
)
def test_what_is_wrong_is_said_with_its_line(refused, table, messages):
    text = refused(table, **STUDY)
    assert all(message in text for message in messages), text


def test_without_a_study_the_labels_are_needed_and_must_agree(refused):
    assert "no column label" in refused(rows().drop(columns="label"))
    text = refused(changed(9, "label", "01"))
    assert "test/1/y.png is labeled '01' here and '1' in an earlier line" in text and "line 11" in text


def test_images_and_classes_without_a_line_and_a_missing_file_are_named(refused, tmp_path):
    table = rows()
    text = refused(table[table["file_name"] != IDS[2]], classes=CLASSES, test_ids=IDS)
    assert "1 of 4 test images have no prediction: test/1/x.png" in text
    assert "no test image of: dog" in refused(rows(), classes=(*CLASSES, "dog"), test_ids=IDS, labels=LABELS)
    with pytest.raises(UsageError, match=r"no such file[\s\S]*none\.csv"):
        read_predictions(tmp_path / "none.csv")
