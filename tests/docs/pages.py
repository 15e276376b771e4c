"""Markdown pages as the checks see them: headings, links, code blocks, and the marker before each block.

A marker is an HTML comment right before the block, which readers do not see:

    <!-- test: run expect='"status":"completed"' -->

Its first word says what is done with the block, the rest are keys that runner.py describes. Every block has one, so that none is
forgotten: one that can't be run says `skip why='…'`, and is counted. A marker that stands alone (`service`) is a step of its own.
"""

import re
import shlex
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^(\s*)(```+|~~~+)\s*(\S*)")
COMMENT = re.compile(r"<!--(.*?)-->", re.S)
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()]*\))?)\)")
VERBS = {"run", "answer", "execute", "said", "data", "skip", "service"}
MANY = {"expect", "refuse", "needs"}


@dataclass
class Marker:
    """What a page wants done, and with what."""

    verb: str
    words: list
    keys: dict

    def all(self, key):
        """Every value of a key that may be given several times."""
        return self.keys.get(key, [])

    def one(self, key, default=None):
        """The value of a key."""
        return self.keys.get(key, default)


@dataclass
class Block:
    """A fenced block, or a marker that stands alone (`text` is None then)."""

    page: Path
    line: int
    language: str = ""
    text: str | None = None
    marker: Marker | None = None
    section: str = ""


@dataclass
class Page:
    """One file."""

    path: Path
    headings: list = field(default_factory=list)
    links: list = field(default_factory=list)
    blocks: list = field(default_factory=list)


class Malformed(Exception):
    """A page that can't be read as it should be."""


def marker(text, where):
    """What follows `test:` in a comment."""
    words = shlex.split(text)
    if not words or words[0] not in VERBS:
        raise Malformed(f"{where}: a marker begins with one of {', '.join(sorted(VERBS))}")
    keys, rest = {}, []
    for word in words[1:]:
        name, sign, value = word.partition("=")
        if words[0] == "service" or not sign or not re.fullmatch(r"[a-z]+", name):
            rest.append(word)
        elif name in MANY:
            keys.setdefault(name, []).append(value)
        else:
            keys[name] = value
    return Marker(words[0], rest, keys)


def read(path):
    """A page, taken apart."""
    page = Page(path)
    lines = path.read_text(encoding="utf-8").split("\n")
    pending, section, number = None, "", 0

    def alone():
        if pending is not None:
            if pending[1].verb != "service":
                raise Malformed(f"{path}:{pending[0]}: no block follows this marker")
            page.blocks.append(Block(path, pending[0], marker=pending[1], section=section))

    while number < len(lines):
        line, start = lines[number], number + 1
        number += 1
        if fence := FENCE.match(line):
            indent, ticks, language = fence.groups()
            text = []
            while number < len(lines) and lines[number].strip() != ticks:
                text.append(lines[number].removeprefix(indent))
                number += 1
            if number == len(lines):
                raise Malformed(f"{path}:{start}: the block does not end")
            number += 1
            block_marker = None
            if pending is not None and pending[1].verb == "service":
                alone()
            elif pending is not None:
                block_marker = pending[1]
            page.blocks.append(Block(path, start, language, "\n".join(text), block_marker, section))
            pending = None
        elif line.lstrip().startswith("<!--"):
            while "-->" not in line and number < len(lines):
                line += "\n" + lines[number]
                number += 1
            body = COMMENT.search(line).group(1).strip()
            if body.startswith("test:"):
                alone()
                pending = (start, marker(body.removeprefix("test:"), f"{path}:{start}"))
        elif line.strip():
            alone()
            pending = None
            if heading := HEADING.match(line):
                section = heading[2]
                page.headings.append((len(heading[1]), heading[2]))
            prose = re.sub(r"`[^`]*`", "", line)
            page.links += [(start, link) for link in LINK.findall(prose)]
    alone()
    return page


def slugs(page):
    """The anchors of a page's headings, as GitHub makes them."""
    seen, found = {}, set()
    for _, title in page.headings:
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        kept = [c for c in title.strip().lower() if c in " -_" or unicodedata.category(c)[0] in "LNM"]
        slug = "".join(kept).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(slug if count == 0 else f"{slug}-{count}")
    return found
