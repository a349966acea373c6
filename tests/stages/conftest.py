import pytest

from diffaug.runtime.console import SilentNarrator


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(SilentNarrator, "warn", lambda self, text: texts.append(text))
    return texts
