"""What notebooks show: bars of progress, tables and pictures."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

BAR_INTERVAL_SECONDS = 0.5


class NotebookBar:
    """A bar below the cell that runs, in whatever front end shows HTML."""

    def __init__(self) -> None:
        self._display: Any = None
        self._shown_at = 0.0

    def show(self, text: str, done: float, total: float) -> None:
        """Moves the bar, at most twice a second and at the end."""
        from IPython.display import HTML, display

        if self._display is not None and done < total and time.monotonic() - self._shown_at < BAR_INTERVAL_SECONDS:
            return
        self._shown_at = time.monotonic()
        value, most = (done, total) if total else (1, 1)
        bar = HTML(f'<progress value="{value:g}" max="{most:g}"></progress> {escape(text)}')  # type: ignore[no-untyped-call]
        if self._display is None:
            self._display = display(bar, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._display.update(bar)

    def stop(self) -> None:
        """Leaves the bar as it is; the next one is another."""
        self._display = None


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose cells are texts, or pictures of `html_picture`."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class HtmlPicture(str):
    """HTML of a picture."""

    __slots__ = ()


def html_picture(png: bytes, text: str = "") -> HtmlPicture:
    """A PNG inside the page, of at least 48 px."""
    source = base64.b64encode(png).decode()
    style = "min-width:48px;image-rendering:pixelated"
    return HtmlPicture(f'<img alt="{escape(text)}" style="{style}" src="data:image/png;base64,{source}">')


def _cell(cell: object) -> str:
    return cell if isinstance(cell, HtmlPicture) else escape(str(cell))
