"""Hooks of MkDocs: pages and files outside of docs/ become part of the site, and links to them lead there.

On a forge the same links lead to the files themselves.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
FILES = ("LICENSE", "benchmarks/*.png", "benchmarks/*.py", "benchmarks/results/*.json", "examples/*.*")
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)")
CODE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and files of the repository that pages link to."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in (path for pattern in FILES for path in ROOT.glob(pattern)):
        files.append(File.generated(config, _copied(path.relative_to(ROOT).as_posix()), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links that leave docs/ into links to the copies in the site."""
    here = page.file.src_uri
    origin = {value: key for key, value in PAGES.items()}.get(here, f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[2]))
        place = target.removeprefix("docs/") if target.startswith("docs/") else PAGES.get(target) or _copied(target)
        return match[1] + posixpath.relpath(place, posixpath.dirname(here) or ".")

    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in CODE.split(markdown))


def _copied(path: str) -> str:
    return f"repository/{path}"
