"""The documentation site is built without a warning, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.command.terminal import HOME

pytest.importorskip("mkdocs", reason="needs the extra `docs` (mkdocs-material, mkdocstrings)")


class Loaded(HTMLParser):
    """What a browser fetches to show a page: its scripts, styles, icons, pictures and frames."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        wanted = ["src", "poster", "srcset"] + (["href"] if tag == "link" else [])
        if given.get("rel") not in ("canonical", "next", "prev"):
            self.found += [given[name] or "" for name in wanted if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_loads_files_of_the_site_alone(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if path.name != "404.html"]
    assert len(pages) > 20
    for page in pages:
        reader = Loaded()
        reader.feed(page.read_text())
        assert reader.found
        for name in (name for name in reader.found if not name.startswith("data:")):
            assert (page.parent / name.partition("?")[0].partition("#")[0]).is_file(), f"{page}: {name}"


def test_styles_load_nothing_from_elsewhere(site: Path) -> None:
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert len(styles) > 2
    outside = [
        found for text in styles for found in re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//\S+", text)
    ]
    assert outside == []


def test_the_interfaces_are_those_of_the_code(site: Path) -> None:
    text = (site / "api.html").read_text()
    for name in ("methods.interface.LatentMethod.transfer", "metrics.interface.Metric.score"):
        assert f'id="{name}"' in text
