from __future__ import annotations

from diffaug.data.entries import listed, tally


def test_names_are_sorted_cut_and_printable() -> None:
    assert listed(["b", "a"]) == "a, b"
    assert listed(["d", "c", "b", "a"]) == "a, b, c, ..."
    assert listed(["two words", "new\nline", "é"]) == "'new\\nline', two words, é"


def test_a_tally_of_nothing_is_no_sentence() -> None:
    assert tally("files", []) == []
    assert tally("files", {"x"}) == ["files: 1 (x)"]
