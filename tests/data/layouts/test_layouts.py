"""One row per layout: the files, and what they are read as or why they are refused."""

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts.scan import Scan, scan
from diffaug.errors import DataError, DiffaugError
from tests.data.layouts.trees import grow

TWO = "cat/{1,2}.png dog/{1,2,3}.png"


@dataclass(frozen=True)
class Case:
    files: str
    expected: str  # images by split and label, or `refused: ` and a part of the message
    masks: str = ""
    table: str | bytes = ""  # t.csv
    tables: dict[str, Any] = field(default_factory=dict)  # and other files
    layout: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)
    says: str = ""  # a part of a remark or of the reading
    given: str = ""  # the folder given, below the root


def both(*folders: str) -> str:
    """Two cats and three dogs in each folder."""
    return " ".join(f"{folder}/cat/{{1,2}}.png {folder}/dog/{{1,2,3}}.png" for folder in folders)


PLAIN = "cat 2, dog 3"
TRAIN_TEST = "test: cat 2, dog 3; train: cat 2, dog 3"
TABLE = "file_name,label\n1.png,a\n2.png,b\n3.png,b\n"

SPLITS = (
    "train test, Training Testing, train_set test_set, training_set test_set, trainset testset, Train-Set "
    "Test-Set, TrainingData TestData, TRAIN TEST, images_train images_test, train2017 test2017, train "
    "testing, trainval test, train_images test_images, train.data holdout, seg_train seg_test, a-train "
    "a-test, ISIC_Training_Input ISIC_Test_Input, train/train test/test, train/images test/images, "
    "archive/Training archive/Testing, train_cropped test, train_v2 test_v2, 01_train 02_test, "
    "seg_train/seg_train seg_test/seg_test"
)

CASES = {
    # Class folders
    "class folders": Case(TWO, PLAIN, says="2 class folders"),
    "one inner folder": Case("cat/Imgs/{1,2}.png dog/Imgs/{1,2,3}.png", PLAIN),
    "one inner folder, of any name": Case("cat/set9/{1,2}.png dog/set9/{1,2,3}.png", PLAIN),
    "several inner folders": Case("cat/{imgs,more}/1.png dog/images/{1,2,3}.png", PLAIN),
    "patients inside": Case("cat/{p1,p2}/1.png dog/{p3,p4,p5}/1.png", PLAIN),
    "several depths": Case("cat/1.png cat/day/sun/2.png dog/{1,2}.png dog/night/3.png", PLAIN),
    "every format": Case("cat/1.PPM cat/2.pgm dog/1.tiff dog/2.jp2 dog/3.dcm", PLAIN),
    "without extension": Case("cat/{one,two} dog/{one,two,three}", PLAIN),
    "one folder down": Case("data/archive/cat/{1,2}.png data/archive/dog/{1,2,3}.png", PLAIN, says="in data/archive/"),
    "a stray table": Case(TWO, PLAIN, tables={"stats.csv": "a,b\n1,2\n"}),
    "a ragged table": Case(TWO, PLAIN, tables={"notes.csv": "a,b\n1,2,3\n"}),
    "folders without images": Case(TWO, PLAIN, tables={"docs/README.md": "x"}, says="not read as classes: 1 (docs)"),
    "an empty class": Case("cat/{1,2}.png dog/{1,2,3}.png emu/", PLAIN, says="3 class folders"),
    "classes of numbers": Case("{10,9,2}/1.png", "10 1, 2 1, 9 1"),
    "unlabeled beside classes": Case("cat/{1,2}.png dog/{1,2,3}.png Unlabelled/{1,2}.png", f"{PLAIN}; unlabeled: 2"),
    "labeled and unlabeled": Case(f"{both('labeled')} unlabeled/{{1,2}}.png", f"{PLAIN}; unlabeled: 2"),
    "train among classes": Case("train/1.png car/1.png bus/1.png", "bus 1, car 1, train 1"),
    "test among classes": Case(
        "test/1.png car/1.png bus/1.png", "bus 1, car 1, test 1", says="'test' is read as a class"
    ),
    "test among classes, as a split": Case(
        "test/1.png car/1.png bus/1.png", "train: bus 1, car 1; unlabeled: 1", layout="splits"
    ),
    "a slip of the pen": Case(
        f"dog/{{{','.join(map(str, range(40)))}}}.png dgo/1.png cat/1.png",
        "cat 1, dgo 1, dog 40",
        says="'dgo' may be a typing error for 'dog': 1 and 40 images",
    ),
    "no images": Case("", "refused: there are no images here"),
    "only other files": Case("", "refused: there are no images here", tables={"cat/readme.txt": "x"}),
    "only slides": Case("", "refused: data.pdf is of another format", tables={"data.pdf": "%PDF-1.4", "a.md": "x"}),
    "only an archive of numbers": Case(
        "", "refused: data.h5 is of another format", tables={"data.h5": b"\x89HDF\r\n\x1a\n", "a.xlsx": "PK\3\4"}
    ),
    "formats that are not read": Case("cat/{1,2}.psd dog/{1,2}.jxl dog/3.exr", PLAIN),
    "drawings beside classes": Case(
        TWO, PLAIN, tables={"docs/a.svg": "<svg>"}, says="PNG or TIFF if they are images): 1 (docs/a.svg)"
    ),
    "flat and a spreadsheet": Case("{1,2}.png", "refused: labels.xlsx is not read", tables={"labels.xlsx": "PK\3\4"}),
    "flat and a list": Case("{1,2}.png", "refused: all.txt is not read", tables={"all.txt": "1.png 0\n2.png 1\n"}),
    "flat and notes": Case("{1,2}.png", "refused: tells the label", tables={"notes.txt": "one picture each\n"}),
    "classes and lists of splits": Case(
        TWO,
        PLAIN,
        tables={"lists/train.txt": "cat/1.png 0\n", "lists/test.txt": "\ndog/2 1\n", "notes.txt": "x\n"},
        says="not used (write a CSV of file_name,label,split to use them): 2 (lists/test.txt, lists/train.txt)",
    ),
    "flat": Case("{1,2,3}.png", "refused: tells the label of the images: 1.png, 2.png, 3.png"),
    "flat in images/": Case("images/{1,2,3}.png", "refused: tells the label"),
    "one class of several": Case(TWO, "refused: tells the label", given="cat"),
    "two forms": Case(both("color", "gray"), "refused: hold folders of the same names: cat, dog"),
    "three forms": Case(both("color", "grayscale", "segmented"), "refused: hold folders of the same names"),
    "two forms, one folder down": Case(both("raw/color", "raw/gray"), "refused: hold folders of the same names"),
    "classes of classes": Case(
        "bird/{eagle,owl}/1.png fish/{carp,cod}/1.png", "refused: may be classes: carp, cod, eagle"
    ),
    "folders named as parts": Case("{part1,part2}/{1,2}.png", "refused: tells the label"),
    "volumes": Case("a/{1,2}.nii.gz b/3.nii.gz", "a 2, b 1"),
    "two forms as classes": Case(both("color", "gray"), "color 5, gray 5", layout="classes"),
    "classes a second time": Case(f"cat/1.png dog/1.png {both('set')}", "refused: a second time"),
    "look-alike classes": Case("Cat/1.png cat/1.png", "refused: differ only in case"),
    # Splits
    **{f"splits {one} and {two}": Case(both(one, two), TRAIN_TEST) for one, two in map(str.split, SPLITS.split(", "))},
    **{
        f"validation {name}": Case(both("train", name, "test"), TRAIN_TEST + "; val: cat 2, dog 3")
        for name in ["val", "valid", "Validation", "dev", "eval", "evaluation", "validation_set"]
    },
    "train and val": Case(both("train", "val"), "train: cat 2, dog 3; val: cat 2, dog 3"),
    "train alone": Case(both("train"), PLAIN, says="in train/"),
    "unlabeled alone": Case("unlabeled/{a,b}/1.png", "refused: no labeled images here"),
    "inner folders in splits": Case(
        "train/cat/Imgs/{1,2}.png train/dog/Imgs/{1,2,3}.png test/cat/Imgs/1.png", "test: cat 1; train: cat 2, dog 3"
    ),
    "MVTec": Case(
        "train/good/{1,2}.png test/good/3.png test/crack/4.png",
        "test: crack 1, good 1; train: good 2",
        masks="ground_truth/crack/4_mask.png",
        says="masks, set aside and not trained on: 1 (ground_truth/crack/4_mask.png)",
    ),
    "many sets of MVTec": Case(
        "{bottle,cable}/train/good/{1,2}.png {bottle,cable}/test/{good,bad}/3.png", "refused: several data sets here"
    ),
    "splits inside classes": Case(
        "cat/train/{1,2}.png cat/test/3.png dog/Train/1.png dog/Test/{2,3}.png",
        "test: cat 1, dog 2; train: cat 2, dog 1",
    ),
    "splits inside some classes": Case(
        "cat/train/1.png cat/test/3.png dog/1.png", "refused: some class folders hold splits"
    ),
    "split and class in one name": Case(
        "trainA/{1,2}.png trainB/1.png testA/3.png testB/4.png", "test: a 1, b 1; train: a 2, b 1"
    ),
    "classes beside test": Case(f"cat/{{4,5}}.png dog/4.png {both('test')}", "test: cat 2, dog 3; train: cat 2, dog 1"),
    "Kaggle": Case(
        f"{both('train')} test/{{1,2}}.png", "train: cat 2, dog 3; unlabeled: 2", says="2 unlabeled images from test/"
    ),
    "unknown in test": Case(
        f"{both('train')} test/unknown/{{1,2}}.png",
        "train: cat 2, dog 3; unlabeled: 2",
        says="images of a split that gives them no labels, read as unlabeled: 2 (test/unknown/1.png",
    ),
    "images in test": Case(f"{both('train')} test/images/{{1,2}}.png", "train: cat 2, dog 3; unlabeled: 2"),
    "val without labels": Case(f"{both('train', 'test')} val/1.png", f"{TRAIN_TEST}; unlabeled: 1"),
    "Intel": Case(
        f"{both('seg_train/seg_train', 'seg_test/seg_test')} seg_pred/seg_pred/{{1,2}}.png",
        f"{TRAIN_TEST}; unlabeled: 2",
    ),
    "unlabeled in train": Case(f"{both('train', 'test')} train/unsup/{{1,2}}.png", f"{TRAIN_TEST}; unlabeled: 2"),
    "unlabeled beside splits": Case(f"{both('train', 'test')} unlabelled/{{1,2}}.png", f"{TRAIN_TEST}; unlabeled: 2"),
    "annotations beside splits": Case(
        both("train", "test"), TRAIN_TEST, tables={"annotations/a.xml": "x", "README.md": "x"}, says="annotations/a.xml"
    ),
    "figures beside splits": Case(
        f"{both('train', 'test')} docs/1.png", TRAIN_TEST, says="beside the splits, left out: 1"
    ),
    "images beside splits": Case(f"{both('train', 'test')} extra/cat/1.png", "refused: 'extra', beside test, train"),
    "images beside splits, left out": Case(
        f"{both('train', 'test')} extra/cat/1.png", TRAIN_TEST, layout="splits", says="left out: 1 (extra/cat"
    ),
    "images beside splits, a class": Case(
        f"{both('train', 'test')} extra/cat/1.png", "extra 1, test 5, train 5", layout="classes"
    ),
    "a nested copy": Case(
        f"{both('x/train', 'x/test', 'x/x/train', 'x/x/test')} __MACOSX/1.png", "refused: holds splits itself"
    ),
    "a split twice": Case(both("train", "val", "valid"), "refused: 'val' and 'valid' are both the val split"),
    "no splits where asked for": Case(
        "cat/1.png dog/1.png", "refused: no folder is named as a split: cat, dog", layout="splits"
    ),
    "no train": Case(both("val", "test"), "refused: there is no train split"),
    "flat splits": Case("train/{1,2}.png test/1.png", "refused: tells the label of the images: 1.png, 2.png"),
    "YOLO": Case(
        "train/images/{1,2}.png valid/images/1.png",
        "refused: tells the label",
        tables={"train/labels/1.txt": "0 1 1 1 1"},
    ),
    "other classes in test": Case(f"{both('train')} test/{{emu,owl}}/1.png", "refused: holds other classes (emu, owl)"),
    "two forms in train": Case(both("train/color", "train/gray", "test/color"), "refused: of the same names"),
    "test alone among folders": Case("test/{a,b}/1.png car/1.png bus/1.png", "refused: is not named as a split"),
    "flat splits beside a folder": Case("train/1.png test/1.png extra/1.png", "refused: is not named as a split"),
    # Masks
    "BUSI": Case(
        TWO,
        PLAIN,
        masks="cat/{1,2}_mask.png dog/1_mask.png dog/1_mask_1.png",
        says="masks of images that have one already, not used: 1 (dog/1_mask_1.png)",
    ),
    **{
        f"mask {name}": Case(TWO, PLAIN, masks=f"cat/{name}.png dog/{name}.png", says="set aside")
        for name in ["1_seg", "1_gt", "1_label", "mask_1", "1-Mask", "1_segmentation", "1.mask", "1_ground_truth"]
    },
    "masks of another extension": Case(
        "cat/{1,2}.jpg dog/{1,2,3}.jpg", PLAIN, masks="cat/1.png dog/{1,2}.png", says="set aside"
    ),
    "two formats": Case("cat/1.{jpg,png} dog/{1,2,3}.jpg", PLAIN),
    "photos named as masks": Case("cat/shoe.png cat/shoe_label.png dog/{1,2,3}.png", PLAIN),
    "mask folder in classes": Case(TWO, PLAIN, masks="{cat,dog}/mask/1.png", says="set aside"),
    "damaged masks in classes": Case(TWO, PLAIN, tables={"cat/mask/1.png": b"x"}, says="set aside"),
    "images and masks in classes": Case(
        "cat/images/{1,2}.png dog/images/{1,2,3}.png", PLAIN, masks="{cat,dog}/masks/1.png"
    ),
    "images and masks": Case(both("images"), PLAIN, masks="masks/{cat,dog}/1.png", says="set aside"),
    "masks beside classes": Case(TWO, PLAIN, masks="SegmentationClass/{cat,dog}/1.png"),
    "flat masks beside classes": Case(
        "cat/{1,2}.png dog/{3,4,5}.png", PLAIN, masks="masks/{1,3}.png", says="set aside"
    ),
    "masks of tumors": Case(
        "images/cat/1.png images/dog/{1,2}.png", "cat 1, dog 2", masks="tumor_masks/cat/1.png", says="set aside"
    ),
    "faces, of kinds of masks": Case(
        "cloth_mask/1.png paper_mask/2.png bare/3.png", "bare 1, cloth_mask 1, paper_mask 1"
    ),
    "masks beside splits": Case(
        both("train", "test"), TRAIN_TEST, masks="{train,test}_masks/cat/1.png", says="set aside"
    ),
    "masks without an image": Case(TWO, PLAIN, masks="cat/{1,9}_mask.png", says="without an image"),
    "faces": Case("with_mask/{1,2}.png without_mask/{1,2,3}.png", "with_mask 2, without_mask 3"),
    "faces, of two words": Case("mask/{1,2}.png no_mask/{1,2,3}.png", "mask 2, no_mask 3"),
    "faces of one name": Case("mask/{1,2}.png face/{1,2,3}.png", "face 3, mask 2"),
    "faces in files": Case("with_mask/{with_mask_1,with_mask_2}.png bare/{1,2,3}.png", "bare 3, with_mask 2"),
    # Tables
    "a table": Case(
        "{1,2,3}.png", "a 1, b 2", tables={"labels.csv": TABLE}, says="labels.csv (file 'file_name', label 'label')"
    ),
    "a table and images/": Case("images/{1,2,3}.png", "a 1, b 2", tables={"labels.csv": TABLE}),
    "semicolons": Case("{1,2,3}.png", "a 1, b 2", table=TABLE.replace(",", ";")),
    "tabs": Case("{1,2,3}.png", "a 1, b 2", tables={"t.tsv": TABLE.replace(",", "\t")}),
    "tabs in text": Case("{1,2,3}.png", "a 1, b 2", tables={"t.txt": TABLE.replace(",", "\t")}),
    "byte order mark": Case("{1,2,3}.png", "a 1, b 2", table=b"\xef\xbb\xbf" + TABLE.encode()),
    "UTF-16": Case("{1,2,3}.png", "a 1, b 2", table=TABLE.encode("utf-16")),
    "capital headers": Case("{1,2,3}.png", "a 1, b 2", table=TABLE.replace("file_name,label", "Image ID , Class")),
    "ids": Case("images/{i1,i2,i3}.jpg", "a 1, b 2", table="image_id,dx\ni1,a\ni2,b\ni3,b\n"),
    "ids in two places": Case("x/i1.jpg y/i1.jpg", "refused: may be x/i1.jpg or y/i1.jpg", table="id,label\ni1,a\n"),
    "parts and ids (HAM)": Case(
        "HAM_part_1/{i1,i2}.jpg HAM_part_2/i3.jpg",
        "a 1, b 2",
        tables={"HAM_metadata.csv": "lesion_id,image_id,dx,age\nL1,i1,a,3\nL2,i2,b,4\nL2,i3,b,5\n"},
        says="group 'lesion_id'",
    ),
    "any name of the file column": Case("{1,2,3}.png", "a 1, b 2", table=TABLE.replace("file_name", "scan")),
    "numbers stay text": Case(
        "{1,2,3,4}.png",
        "010 1, 1.0 1, 2020-01-02 1, no 1",
        table="file,label\n1.png,010\n2.png,1.0\n3.png,no\n4.png,2020-01-02\n",
    ),
    "missing files": Case("{1,2}.png", "a 1, b 1", table=TABLE, says="t.csv names and that are missing: 1 (3.png)"),
    "all files missing": Case("x.png", "refused: none of the 3 images that t.csv names are here", table=TABLE),
    "images not named": Case("{1,2,3,4}.png", "a 1, b 2", table=TABLE, says="gives a label, left out: 1 (4.png)"),
    "two label columns": Case(
        "{1,2,3}.png",
        "refused: may be the label: diagnosis, target",
        table="file,diagnosis,target\n1.png,a,0\n2.png,b,0\n3.png,b,1\n",
    ),
    "two label columns, one chosen": Case(
        "{1,2,3}.png",
        "0 2, 1 1",
        settings={"label_column": "target"},
        table="file,diagnosis,target\n1.png,a,0\n2.png,b,0\n3.png,b,1\n",
    ),
    "numbers and names of classes": Case(
        "{1,2,3}.png", "a 1, b 2", table="file,class_id,class_name\n1.png,0,a\n2.png,1,b\n3.png,1,b\n"
    ),
    "no known label column": Case(
        "{1,2,3}.png",
        "refused: no column of t.csv is known as the label",
        table="id,has_cactus\n1.png,1\n2.png,0\n3.png,0\n",
    ),
    "a column twice": Case(
        "{1,2,3}.png",
        "refused: two columns have the same name: 'label' and 'Label'",
        table="file,label,Label\n1.png,a,b\n",
    ),
    "a file twice": Case(
        "{1,2}.png", "refused: 1.png is named twice, with label a and b", table="file,label\n1.png,a\n./1.png,b\n"
    ),
    "a file twice, the same": Case("{1,2}.png", "a 1, b 1", table="file,label\n1.png,a\n1.png,a\n2.png,b\n"),
    "one column per class (ISIC)": Case(
        "{i1,i2,i3}.jpg",
        "MEL 1, NV 2",
        tables={"gt.csv": "image,MEL,NV,BCC\ni1,1.0,0.0,0.0\ni2,0.0,1.0,0.0\ni3,0.0,1.0,0.0\n"},
    ),
    "several classes per image": Case(
        "{i1,i2}.jpg", "refused: i2 has several labels: MEL, NV", tables={"gt.csv": "image,MEL,NV\ni1,1,0\ni2,1,1\n"}
    ),
    "no class for an image": Case(
        "{i1,i2}.jpg", "refused: i2 has no label", tables={"gt.csv": "image,MEL,NV\ni1,1,0\ni2,0,0\n"}
    ),
    "lists of labels": Case(
        "{1,2,3}.png", "refused: is a list of labels: a|b", table="file,label\n1.png,a\n2.png,a|b\n"
    ),
    "a split column": Case(
        "{1,2,3}.png",
        "test: b 1; train: a 1, b 1",
        table="file,label,Set\n1.png,a,Train\n2.png,b,training\n3.png,b,TEST\n",
    ),
    "a split for some": Case(
        "{1,2,3}.png",
        "refused: some lines name a split",
        table="file,label,split\n1.png,a,train\n2.png,b,\n3.png,b,train\n",
    ),
    "an unknown split": Case("1.png", "refused: there is no split 'x'", table="file,label,split\n1.png,a,x\n"),
    "an unlabeled test in the table": Case(
        "{1,2,3}.png",
        "train: a 1, b 1; unlabeled: 1",
        table="file,label,split\n1.png,a,train\n2.png,b,train\n3.png,,test\n",
    ),
    "train.csv and test.csv": Case(
        "{1,2,3,4}.png",
        "test: b 1; train: a 1, b 2",
        tables={"train.csv": TABLE, "test.csv": "file_name,label\n4.png,b\n"},
    ),
    "APTOS": Case(
        "train_images/{1,2,3}.png test_images/{4,5}.png",
        "train: a 1, b 2; unlabeled: 2",
        tables={
            "train.csv": "id_code,diagnosis\n1,a\n2,b\n3,b\n",
            "test.csv": "id_code\n4\n5\n",
            "sample_submission.csv": "id_code,diagnosis\n4,a\n5,a\n",
        },
    ),
    "one name in each split": Case(
        "{train,val}/{1,2}.png",
        "train: a 1, b 1; val: a 1, b 1",
        tables={f"{split}.csv": "file,label\n1.png,a\n2.png,b\n" for split in ("train", "val")},
    ),
    "train.csv alone": Case(
        "train/{1,2,3}.png test/{4,5}.png", "train: a 1, b 2; unlabeled: 2", tables={"train.csv": TABLE}
    ),
    "one table, splits by folder": Case(
        "train/{1,2}.png test/3.png", "test: b 1; train: a 1, b 1", tables={"labels.csv": TABLE}
    ),
    "a table in labels/": Case("images/{1,2,3}.png", "a 1, b 2", tables={"labels/labels.csv": TABLE}),
    "Hugging Face, CSV": Case(
        "train/{1,2,3}.png test/1.png",
        "test: b 1; train: a 1, b 2",
        tables={"train/metadata.csv": TABLE, "test/metadata.csv": "file_name,label\n1.png,b\n"},
    ),
    "Hugging Face, JSON Lines": Case(
        "{1,2}.png",
        "1.0 1, a 1",
        says="group 'patient'",
        tables={
            "metadata.jsonl": '{"file_name": "1.png", "label": 1.0, "patient": 7}\n'
            '{"file_name": "2.png", "label": "a", "patient": 8}\n'
        },
    ),
    "Roboflow classes": Case(
        "train/{1,2}.jpg valid/3.jpg",
        "train: cat 1, dog 1; val: dog 1",
        tables={
            "train/_classes.csv": "filename, cat, dog\n1.jpg, 1, 0\n2.jpg, 0, 1\n",
            "valid/_classes.csv": "filename, cat, dog\n3.jpg, 0, 1\n",
        },
    ),
    "table and folders agree": Case(TWO, PLAIN, table="file,label\ncat/1.png,cat\n"),
    "table and folders differ": Case(
        TWO, "refused: the folders give different labels", table="file,label\ncat/1.png,sick\ndog/1.png,well\n"
    ),
    "table renames folders": Case(
        "n01/{1,2}.png n02/3.png", "cat 2, dog 1", table="file,label\nn01/1.png,cat\nn01/2.png,cat\nn02/3.png,dog\n"
    ),
    "a chosen table": Case(
        "{1,2,3}.png", "a 1, b 2", layout="t.csv", tables={"t.csv": TABLE, "old.csv": TABLE.replace("a", "c")}
    ),
    "two tables differ": Case(
        "{1,2,3}.png", "refused: named twice", tables={"t.csv": TABLE, "u.csv": TABLE.replace(",a", ",c")}
    ),
    "masks in a table": Case(
        "images/{1,2,3}.png", "a 1, b 2", table=TABLE, masks="images/1_mask.png", says="set aside"
    ),
    "masks in a folder and a table": Case("images/{1,2,3}.png", "a 1, b 2", table=TABLE, masks="masks/{1,2}.png"),
    "images named as masks in a table": Case(
        "1.png 1_mask.png", "bare 1, mask 1", table="file,label\n1.png,bare\n1_mask.png,mask\n"
    ),
    "outside": Case("1.png", "refused: lies outside the folder", table="file,label\n../1.png,a\n"),
    "absolute": Case("1.png", "refused: lies outside the folder", table="file,label\n/etc/1.png,a\n"),
    "backslashes": Case("img/{1,2}.png", "a 1, b 1", table="file,label\nimg\\1.png,a\n.\\img\\2.png,b\n"),
    # Sets of public data, and what tools and hospitals export
    "classes in each patient (IDC)": Case(
        "{10253,10254,10255}/{0,1}/{1,2}.png", "refused: hold folders of the same names: 0, 1"
    ),
    "classes in each patient, as such": Case("{10253,10254,10255}/{0,1}/{1,2}.png", "0 6, 1 6", layout="inner"),
    "classes in each patient of each split": Case(
        "{train,test}/{p1,p2}/{0,1}/1.png", "test: 0 2, 1 2; train: 0 2, 1 2", layout="inner"
    ),
    "classes of two organs (LC25000)": Case(
        "lung/{lung_aca,lung_n}/1.png colon/{colon_aca,colon_n}/1.png",
        "colon_aca 1, colon_n 1, lung_aca 1, lung_n 1",
        layout="inner",
    ),
    "classes of classes, further down (BreakHis)": Case(
        "benign/SOB/{adenosis,fibroadenoma}/p1/40X/1.png malignant/SOB/{ductal,lobular}/p2/40X/1.png",
        "refused: may be classes: adenosis, ductal, fibroadenoma",
    ),
    "splits further down beside a folder (BCCD)": Case(
        "set2/set2/images/{TRAIN,TEST}/{EOS,LYM}/1.png set1/set1/images/1.png",
        "refused: 'set2' holds splits of classes",
    ),
    "two sets, further down (casting)": Case(
        "x/x/{train,test}/{bad,good}/1.png y/y/{bad,good}/2.png", "refused: 'x' holds splits of classes"
    ),
    "a test set of another name (Simpsons)": Case(
        "simpsons_dataset/{abe,bart}/1.png kaggle_simpson_testset/kaggle_simpson_testset/1.png",
        "refused: may hold the classes of which 'kaggle_simpson_testset' is a split",
    ),
    "splits inside classes, further down": Case(
        "cat/img/{train,test}/1.png dog/img/train/1.png", "test: cat 1; train: cat 1, dog 1"
    ),
    "folders of people": Case("{patient_004,patient_007}/{1,2}.png", "refused: are named as people"),
    "people as classes": Case("{s1,subject02}/{1,2}.png", "s1 2, subject02 2"),
    "a table of folders": Case(
        "{00001,00002,00003,00004}/{1,2}.png",
        "refused: t.csv gives each of 'BraTS21ID' its 'MGMT_value'",
        table="BraTS21ID,MGMT_value\n00001,1\n00002,0\n00003,1\n00004,0\n",
    ),
    "tables of classes": Case(
        "{cat,dog,elm,oak}/1.png",
        "cat 1, dog 1, elm 1, oak 1",
        tables={"a.csv": "folder,count\ncat,2\ndog,2\nelm,3\noak,2\n", "b.csv": "class_id,name\n0,cat\n1,dog\n"},
    ),
    "attributes without a known label (CelebA)": Case(
        "img_celeba/img_celeba/{1,2,3}.jpg",
        "refused: no column of t.csv is known as the label",
        table="image_id,Male,Smiling\n1.jpg,1,-1\n2.jpg,-1,1\n3.jpg,1,1\n",
    ),
    "splits as numbers (CelebA)": Case(
        "{1,2}.jpg",
        "refused: there is no split '0'",
        tables={"t.csv": "image_id,label\n1.jpg,a\n2.jpg,b\n", "u.csv": "image_id,partition\n1.jpg,0\n2.jpg,1\n"},
    ),
    "a table without labels beside classes (Imagenette)": Case(
        "cat/{1,2}.png dog/{3,4,5}.png",
        PLAIN,
        tables={"noisy.csv": "path,noisy_0\ncat/1.png,dog\ndog/3.png,dog\n"},
        says="tables without a column of labels, not used for labels: 1 (noisy.csv)",
    ),
    "a list without header beside classes (Cars)": Case(
        "train/{x,y}/1.png test/{x,y}/1.png",
        "test: x 1, y 1; train: x 1, y 1",
        tables={"anno.csv": "1.png,39,116,14\n2.png,1,2,3\n"},
    ),
    "boxes (RSNA, NIH)": Case(
        "{p1,p2,p3}.png", "0 1, 1 2", table="patientId,x,y,width,Target\np1,,,,0\np2,5,6,7,1\np2,8,9,1,1\np3,1,2,3,1\n"
    ),
    "numbers with a point (birds)": Case(
        "{1,2,3}.png", "a 1, b 2", table="class id,path,labels\n0.0,1.png,a\n1.0,2.png,b\n1.0,3.png,b\n"
    ),
    "lists of one label (ODIR)": Case(
        "{1,2,3}.png", "N 1, O 1, v.2 1", table='file,label\n1.png,[\'N\']\n2.png,"[""O""]"\n3.png,[v.2]\n'
    ),
    "Excel": Case("{1,2,3}.png", "a 1, b 2", table="sep=;\r\n" + TABLE.replace(",", ";")),
    "quotes after spaces": Case("{1,2,3}.png", "a 1, b 2", table=TABLE.replace(",b", ', "b"')),
    "another Unicode form": Case("é1.png é2.png", "a 2", table="file,label\ne\u03011.png,a\ne\u03012.png,a\n"),
    "paths from above the folder": Case(
        "img/{1,2}.png", "a 2", table="file,label\ndata/img/1.png,a\n./data/img/2.png,a\n"
    ),
    "paths up from the table": Case(
        "img/{1,2}.png", "a 2", tables={"csv/t.csv": "file,label\n../img/1.png,a\n..\\img\\2.png,a\n"}
    ),
    "a table and another of test (HAM)": Case(
        "part_1/a.jpg part_2/b.jpg Test_Images/c.jpg",
        "test: nv 1; train: mel 1, nv 1",
        tables={"meta.csv": "image_id,dx\na,nv\nb,mel\n", "Test_GroundTruth.csv": "image_id,dx\nc,nv\n"},
    ),
    "test beside train, one folder down": Case(
        "imgs/train/{1,2,3}.png imgs/test/4.png", "train: a 1, b 2; unlabeled: 1", tables={"list.csv": TABLE}
    ),
    "masks in a folder with a longer name (HAM)": Case(
        "cat/{1,2}.png dog/{3,4,5}.png", PLAIN, masks="skin_segmentations_2018/{1,3}_segmentation.png", says="set aside"
    ),
    "annotated images (CamVid)": Case("cat/{1,2}.png dog/{3,4,5}.png", PLAIN, masks="defaultannot/{1,3}.png"),
    "photos in a folder that hints at masks": Case(
        "segmentation_error/{1,2}.png fine/{1,2}.png", "fine 2, segmentation_error 2"
    ),
    "the index of a CD of DICOM files": Case(
        "cat/{1,2}.dcm dog/{1,2,3}.dcm", PLAIN, tables={"cat/DICOMDIR": b"\0" * 128 + b"DICM"}, says="cat/DICOMDIR"
    ),
    "classes that differ in spaces": Case(
        "cat/1.png", "refused: differ only in case, spaces", tables={"cat /2.png": b""}
    ),
    "a copy of a class": Case("{cat,cat_-_Copy,dog}/1.png", "refused: 'cat_-_Copy' may be a copy of 'cat'"),
    "val labeled by a table": Case(
        f"{both('train')} val/{{8,9}}.png",
        "train: cat 2, dog 3; val: cat 1, dog 1",
        tables={"val/labels.csv": "file,label\n8.png,cat\n9.png,dog\n"},
        says="labels of val from a table",
    ),
    "test labeled by a table, in other words": Case(
        f"{both('train')} test/{{8,9}}.png",
        "refused: the folders give different labels",
        tables={"test_labels.csv": "file,label\n8.png,0\n9.png,1\n"},
    ),
    "outlines in a table": Case(
        "{1,2}.png", "a 1, b 1", table=f"file,label,rle\n1.png,a,{'1 2 ' * 40_000}\n2.png,b,\n"
    ),
    "a table far below": Case("a/b/img/{1,2,3}.png", "a 1, b 2", tables={"a/b/csv/t.csv": TABLE}),
    "a flag for test": Case(
        "{1,2,3}.png",
        "a 1, b 2",
        table="file,label,is_test\n1.png,a,0\n2.png,b,0\n3.png,b,1\n",
        says="'is_test' not read as a split",
    ),
    "notes among masks": Case(
        "images/cat/1.png images/dog/2.png",
        "cat 1, dog 1",
        masks="masks/cat/1.png",
        tables={"masks/notes.txt": "x"},
        says="not images, skipped: 1 (masks/notes.txt)",
    ),
}


def summary(found: Scan) -> str:
    """The images by split and label."""
    splits: dict[str, Counter[str]] = {}
    for entry in found.entries:
        splits.setdefault(entry.split or "", Counter())[entry.label] += 1
    parts = []
    for split, counts in sorted(splits.items()):
        labels = ", ".join(f"{label} {count}".strip() for label, count in sorted(counts.items()))
        parts.append(f"{split}: {labels}" if split else labels)
    return "; ".join(parts)


@pytest.mark.parametrize("name", CASES)
def test_layout(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    tables = case.tables | ({"t.csv": case.table} if case.table else {})
    root = grow(tmp_path / "data", case.files, masks=case.masks, tables=tables)
    settings = DataSettings(layout=case.layout, **case.settings)
    if case.expected.startswith("refused: "):
        with pytest.raises(DataError) as caught:
            scan(root / case.given, settings)
        assert case.expected.removeprefix("refused: ") in caught.value.what
        require_that_advice_works(root / case.given, caught.value)
        return
    found = scan(root, settings)
    assert summary(found) == case.expected
    assert case.says in " / ".join([found.reading, *found.remarks])
    require_that_all_is_told(root, found)
    if not tables and "named" not in name and "one name" not in name:
        assert all(entry.label in entry.path.split("/") for entry in found.entries if entry.label)


def test_absolute_paths_in_the_folder(tmp_path: Path) -> None:
    rows = f"{tmp_path}/data/img/1.png,a\n{tmp_path}/data/img/../img/2.png,b\n"
    root = grow(tmp_path / "data", "img/{1,2}.png", tables={"t/labels.csv": f"file,label\n{rows}"})
    assert summary(scan(root, DataSettings())) == "a 1, b 1"
    (tmp_path / "link").symlink_to(root)
    assert summary(scan(tmp_path / "link", DataSettings())) == "a 1, b 1"


def require_that_advice_works(root: Path, error: DiffaugError) -> None:
    """Follows each command, flag and path that the message names."""
    assert error.fix
    for path in re.findall(r"(?:diffaug inspect|, give) (\S+?)(?=;|$| or | reads)", error.fix):
        assert len(scan(Path(shlex.split(path)[0]), DataSettings()).classes) > 1
    for flag, value in re.findall(r"--(layout|label-column) (\S+?)(?=[,;]|$| )", error.fix):
        found = scan(root, DataSettings(**{flag.replace("-", "_"): shlex.split(value)[0]}))
        assert len(found.classes) > 1 and found.entries


def require_that_all_is_told(root: Path, found: Scan) -> None:
    """Each image is an entry, a mask or in a remark, and nothing is two of these."""
    told = [entry.path for entry in found.entries] + [entry.mask for entry in found.entries if entry.mask]
    assert len(told) == len(set(told))
    hidden = {"__MACOSX"}
    images = [path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in (".png", ".jpg")]
    rest = {path.relative_to(root).as_posix() for path in images if not hidden & set(path.parts)} - set(told)
    counts = [
        int(re.findall(r": (\d+) \(", remark)[0])
        for remark in found.remarks
        if re.search(r"left out: |skipped|not used", remark)
    ]
    assert sum(counts) >= len(rest), (rest, found.remarks)
