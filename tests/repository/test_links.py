# SPDX-License-Identifier: GPL-3.0-or-later
"""Every relative link of a document leads to a file of the repository, and to an anchor that is there."""

import posixpath
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

import pytest
from collection_tree import ROOT, source_files
from markdown_it import MarkdownIt
from markdown_it.token import Token

FILES = source_files()
DOCUMENTS = [name for name in FILES if name.endswith(".md")]


def tokens(text: str) -> Iterator[Token]:
    """Blocks, each inline one followed by its children."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def anchors(text: str) -> set[str]:
    """What can follow a # in a link to this document.

    GitHub takes a heading as it is read, in lower case, without punctuation, with hyphens for spaces, and
    numbers those that are there already. An id of an HTML element counts as well.
    """
    found: set[str] = set()
    before = None
    for token in tokens(text):
        if token.type == "inline" and before == "heading_open":
            read = "".join(
                child.content for child in token.children or () if child.type in ("text", "code_inline")
            )
            name = anchor = re.sub(r"[^\w\- ]", "", read.lower()).replace(" ", "-")
            number = 0
            while anchor in found:
                number += 1
                anchor = f"{name}-{number}"
            found.add(anchor)
        if token.type in ("html_inline", "html_block"):
            found.update(re.findall(r'\b(?:id|name)="([^"]+)"', token.content))
        before = token.type
    return found


def targets(text: str) -> Iterator[str]:
    """Where links and pictures of a document lead."""
    for token in tokens(text):
        if token.type in ("link_open", "image"):
            yield str(token.attrs["href" if token.type == "link_open" else "src"])


def broken(name: str, texts: Mapping[str, str]) -> list[str]:
    """The links of a document that lead nowhere. texts: of all documents; other files have an empty one."""
    found = []
    for target in targets(texts[name]):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        path = unquote(parts.path) or posixpath.basename(name)
        place = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        there = place in texts or any(other.startswith(f"{place}/") for other in texts)
        if not there or parts.fragment and unquote(parts.fragment) not in anchors(texts.get(place, "")):
            found.append(target)
    return found


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {name: (ROOT / name).read_text(encoding="utf-8") if name in DOCUMENTS else "" for name in FILES}


def test_there_are_documents_with_links(texts: dict[str, str]) -> None:
    found = [target for name in DOCUMENTS for target in targets(texts[name])]
    assert any("#" in target for target in found) and any(target.endswith(".svg") for target in found)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_of_a_document_lead_somewhere(name: str, texts: dict[str, str]) -> None:
    assert broken(name, texts) == []


@pytest.mark.parametrize(
    ("heading", "anchor"),
    {
        "## 7. Keys": "7-keys",
        "### 7.6 Native providers, sealed to a TPM": "76-native-providers-sealed-to-a-tpm",
        "## What `site.yml` does": "what-siteyml-does",
        "## *Two* [links](a.md) here": "two-links-here",
        "## one_name - two": "one_name---two",
        "Underlined\n---": "underlined",
        "text <a id=\"roll-back\"></a>": "roll-back",
    }.items(),
)  # fmt: skip
def test_anchor_is_that_of_github(heading: str, anchor: str) -> None:
    assert anchors(heading) == {anchor}


def test_a_heading_that_is_there_twice_gets_a_number() -> None:
    assert anchors("# Same\n\n# Same\n\n# Same\n") == {"same", "same-1", "same-2"}


@pytest.mark.parametrize(
    ("text", "found"),
    {
        "[x](b.md)": ["b.md"],
        "[x](../a.md)": ["../a.md"],
        "![x](pictures/none.svg)": ["pictures/none.svg"],
        "[x](#no)": ["#no"],
        "[x](../README.md#no)": ["../README.md#no"],
        "[x](../src/code.py#no)": ["../src/code.py#no"],
        "| [two\nlines](b.md) |": ["b.md"],
        "[x][ref]\n\n[ref]: b.md": ["b.md"],
        "# Here\n\n[x](#here) [x](a.md#here) [x](../README.md#yes) [x](../src) [x](../src/code.py)": [],
        "[x](https://example.com/b.md#no) `[x](b.md)`\n\n    [x](b.md)\n": [],
    }.items(),
)
def test_a_link_that_leads_nowhere_is_found(text: str, found: list[str]) -> None:
    assert broken("docs/a.md", {"docs/a.md": text, "README.md": "# Yes", "src/code.py": ""}) == found
