"""A hook of mkdocs: links of the repository are links of the site.

The documents link to each other and to files outside ``docs/`` as GitHub shows them. The site holds
those files too, the documents of the top folder as pages, and what ``docs/main_table.tar.xz`` holds.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PACKED, UNPACKED = "main_table.tar.xz", "main_table/index.html"
LINK = re.compile(r'(?<=\]\()(?![a-z]+:|#)[^)#\s]+|(?<=\ssrc=")(?![a-z]+:)[^"]+')


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages from the top folder, and each file that a page names outside ``docs/``."""
    from mkdocs.structure.files import File

    for name, page in TOP.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    linked = {name for page in files.documentation_pages() for name in _linked(page)}
    for name in sorted(linked):
        if not name.startswith("docs/") and name not in TOP and (ROOT / name).is_file():
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, UNPACKED, content=""))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    at = page.file.src_uri
    # GitHub reads Markdown inside of HTML, mkdocs where it is asked to.
    markdown = markdown.replace("<details>", '<details markdown="1">')

    def link(found: re.Match[str]) -> str:
        name = _target(at, found[0]).replace(PACKED, UNPACKED)
        return posixpath.relpath(TOP.get(name, name.removeprefix("docs/")), posixpath.dirname(at) or ".")

    return LINK.sub(link, markdown)


def on_post_build(config: Any) -> None:
    """The page of the embedded world's main table, whose files are no documents."""
    with tarfile.open(ROOT / "docs" / PACKED) as packed:
        packed.extractall(Path(config.site_dir) / Path(UNPACKED).parent, filter="data")


def _linked(page: Any) -> Iterator[str]:
    return (_target(page.src_uri, link) for link in LINK.findall(page.content_string))


def _target(page: str, link: str) -> str:
    """The path in the repository that a page of the site links to."""
    sources = {page: name for name, page in TOP.items()}
    return posixpath.normpath(posixpath.join(posixpath.dirname(sources.get(page, f"docs/{page}")), link))
