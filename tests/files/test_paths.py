import random
import re
import string
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffaug.errors import DamagedError
from diffaug.files.paths import safe_join, safe_names

RELATIVE = ["..", "../x", "./../x", "../root-evil/x", "a/../../x", "a/b/../../../x", "a//..//..//x", "~/../../x"]
ABSOLUTE = ["/", "/etc/passwd", "//etc/passwd", "/proc/self/environ", "../../../../../../etc/passwd"]
LINKS = {
    "link": "../root-evil",
    "deep/link": "../../root-evil",
    "absolute-link": "/etc",
    "dangling-link": "../absent",
    "loop": "loop",
    "inner-link": "inner",
}
LINKED = ["link", "link/x", "link/../x", "inner/../link/x", "deep/link/x", "absolute-link", "dangling-link"]
INVALID = ["\0", "a\0.png", "\ud800", "a/\ud800/../x", "\ud800/../../x", "..\n/../../x", " /../../x"]
SEVERAL = [("a", "..", "..", "x"), ("a", "/etc/passwd"), ("a", "b\0/../x")]
HOSTILE = [*((path,) for path in RELATIVE + ABSOLUTE + LINKED + INVALID), *SEVERAL]
UNUSUAL = ["...", "....//x", "..\\..\\x", "~", "~root/x", "$HOME", "%2e%2e%2f", "C:\\x", "-rf", "\n"]
HARMLESS = ["a", "a/b.png", "a/../b", *UNUSUAL]


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "root"
    for folder in ("inner", "deep", "../root-evil"):
        (root / folder).mkdir(parents=True)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    return root


@pytest.mark.parametrize("parts", HOSTILE, ids=ascii)
def test_a_path_that_leaves_the_root_is_refused(root, parts):
    with pytest.raises(DamagedError) as caught:
        safe_join(root, *parts)
    assert caught.value.where == str(root)


@pytest.mark.parametrize("part", HARMLESS, ids=ascii)
def test_a_path_that_stays_inside_is_taken_as_it_is(root, part):
    assert safe_join(root, part) == root / part


def test_links_that_stay_inside_are_followed_and_loops_never_crash(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    assert safe_join(tmp_path / "alias", "a") == tmp_path / "alias" / "a"
    assert safe_join(root, "inner-link/x").resolve() == (root / "inner" / "x").resolve()
    with suppress(DamagedError):
        assert safe_join(root, "loop/x") == root / "loop/x"


def collation_key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


text = st.text(max_size=100) | st.text(alphabet="aAbB./ é\u0301\u017fsßK\u212a-_0", max_size=6)


@given(st.lists(text, unique=True, max_size=8))
@example(["", ".", "..", "/", "\0", " ", "a/b", "a b", "a.", ".a", "CON", "\ud800"])
@example(["Cat", "cat", "CAT", "caT "])
@example(["각", "\u1100\u1161\u11a8", "é", "e\u0301", "K", "\u212a", "ss", "ß"])
@example(["犬" * 200, "犬" * 201, "x" * 300, "x" * 301])
def test_file_names_are_distinct_and_safe_everywhere(names):
    mapping = safe_names(names)
    assert set(mapping) == set(names)
    assert len({collation_key(file) for file in mapping.values()}) == len(names)
    for file in mapping.values():
        assert file not in ("", ".", "..")
        assert not set(file) & set('/\\\0:*?"<>|\n\r\t')
        assert file == file.strip(" .") and len(file.encode()) <= 100


plain_text = st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=20).filter(
    lambda name: not re.fullmatch("con|prn|aux|nul|(com|lpt)[0-9]", name)
)


@given(st.lists(plain_text, unique=True), text)
def test_plain_names_stay_as_they_are_in_any_company(plain, other):
    for names in ([*plain, other], [other, *plain]):
        assert [safe_names(names)[name] for name in plain] == plain


@given(st.lists(text, unique_by=collation_key, max_size=6))
def test_a_file_name_depends_on_the_label_alone(names):
    assert safe_names(names) == {name: safe_names([name])[name] for name in names}


@given(st.lists(text, unique=True, max_size=6), st.randoms(use_true_random=False))
@example(["K", "k"], random.Random(0))
def test_file_names_do_not_depend_on_the_order_of_the_labels(names, source):
    shuffled = list(names)
    source.shuffle(shuffled)
    assert safe_names(shuffled) == safe_names(names) == safe_names(names[::-1])


def test_a_label_that_spells_the_file_name_of_another_keeps_it():
    taken = safe_names(["a/b"])["a/b"]
    assert safe_names(["a/b", taken])[taken] == taken
    assert safe_names(["a/b", taken])["a/b"] not in ("a/b", taken)


def test_a_cleaned_label_is_still_legible() -> None:
    assert re.fullmatch(r"a_b__\(1\) x-[0-9a-f]{8}", safe_names([" a/b:?(1) x."])[" a/b:?(1) x."])


@pytest.mark.parametrize("name", ["con", "NUL", "aux.png", "Com1"])
def test_names_of_windows_devices_are_marked(name):
    assert re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{8}}", safe_names([name])[name])


def test_file_names_can_be_created(tmp_path):
    names = ["", "..", "a/b", "Ünïcödé", "犬" * 200, "x" * 300, "\ud800", "new\nline", "-rf", "nul\0"]
    for file in safe_names(names).values():
        (tmp_path / file).touch(exist_ok=False)
    assert len(list(tmp_path.iterdir())) == len(names)
