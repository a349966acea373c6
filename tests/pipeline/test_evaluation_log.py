import pytest

from diffaug.pipeline.evaluation_log import in_markdown


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("real + synthetic", "real + synthetic"),
        ("a|b", r"a\|b"),
        ("*bold* _thin_ `code`", r"\*bold\* \_thin\_ \`code\`"),
        ("[link](https://example.org)", r"\[link\](https://example.org)"),
        ("<img src=x>\n# head", r"\<img src=x\> \# head"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_names_stay_text_in_markdown(text: str, written: str) -> None:
    assert in_markdown(text) == written
