"""A hook of mkdocs: the site also holds what the documents link to outside ``docs/``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
UP = re.compile(r'(?<=\]\()\.\./([^)#\s]+)')


def on_files(files: Any, config: Any) -> Any:
    """Pages from the files at the top, and each file that a page names by ``../PATH``."""
    from mkdocs.structure.files import File

    for page, name in PAGES.items():
        files.append(File.generated(config, page, content=_from_the_top((ROOT / name).read_text())))
    linked = {name for page in files.documentation_pages() for name in UP.findall(page.content_string)}
    linked |= {name for name in ("LICENSE", "NOTICE", "CITATION.cff")}
    for name in sorted(linked - set(PAGES.values())):
        if (ROOT / name).is_file():
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    names = {name: target for target, name in PAGES.items()}
    # GitHub reads Markdown inside of HTML, mkdocs where it is asked to.
    markdown = markdown.replace("<details>", '<details markdown="1">')
    return UP.sub(lambda link: names.get(link[1], link[1]), markdown)


def _from_the_top(text: str) -> str:
    """A document of the top folder as if it lay in ``docs/``."""
    for page, name in PAGES.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text.replace("](docs/", "](").replace('"docs/', '"')
