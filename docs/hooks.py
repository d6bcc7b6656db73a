"""Puts the files outside this folder that a page links to into the built site, so that their links work there too."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every linked file outside docs/ to the site."""
    pages = "".join(page.content_string for page in files.documentation_pages())
    for path in dict.fromkeys(OUTSIDE.findall(pages)):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to these files where they lie in the site."""
    return OUTSIDE.sub(r"\1", markdown)
