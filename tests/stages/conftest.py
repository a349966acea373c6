import pytest

from diffaug.runtime.console import LogNarrator


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(LogNarrator, "warn", lambda self, text: texts.append(text))
    return texts
