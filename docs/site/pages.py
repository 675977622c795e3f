"""What MkDocs is told beside `docs/`: pages that stand elsewhere or are made, and where links lead.

On the site a link to a file of the tree that is no page is its text alone.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from api_page import api_page, document

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
# Pages of the tree that stand outside docs/, and their names on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not in docs/."""
    for name, shown in ELSEWHERE.items():
        files.append(File.generated(config, shown, content=(ROOT / name).read_text("utf-8")))
    files.append(File.generated(config, "api.md", content=api_page(document())))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Has links lead to where pages are on the site."""
    shown = page.file.src_uri
    former = next((name for name, one in ELSEWHERE.items() if one == shown), None)
    source = ROOT / former if former else DOCS / shown

    def led(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        path, _, heading = target.partition("#")
        place = _on_site((source.parent / path).resolve(), files)
        if place is None:
            return text
        way = os.path.relpath(place, Path(shown).parent)
        return f"{mark}[{text}]({way}{'#' + heading if heading else ''})"

    return LINK.sub(led, markdown)


def _on_site(path: Path, files: Files) -> str | None:
    """Where the site has a file of the tree; None where it has not."""
    if path.parent == ROOT:
        return ELSEWHERE.get(path.name)
    if not path.is_relative_to(DOCS):
        return None
    place = str(path.relative_to(DOCS))
    return place if place in files.src_uris else None
