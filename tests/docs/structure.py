"""What can be checked of the pages without running anything: markers, links, and that translations are in step."""

import json
import re
from urllib.parse import unquote

from pages import slugs

# Comments differ between languages, commands do not.
REMARK = re.compile(r"(^|\s)(#|//)\s.*$", re.M)


def unmarked(pages, run):
    """Blocks of the pages in `run` that nobody said anything about."""
    for page in pages:
        if page.path in run:
            for block in page.blocks:
                if block.marker is None:
                    yield f"{page.path}:{block.line}: a block without a marker (tests/docs/pages.py says what that is)"


def links(root, pages):
    """Relative links that lead nowhere. What is outside is not fetched."""
    known = {page.path.resolve(): slugs(page) for page in pages}
    for page in pages:
        for line, link in page.links:
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            path = (page.path.parent / target).resolve() if target else page.path.resolve()
            if root.resolve() not in [path, *path.parents] or not path.exists():
                yield f"{page.path}:{line}: {link} leads to nothing"
            elif anchor and path in known and anchor not in known[path]:
                yield f"{page.path}:{line}: {link}: there is no such heading; there are {', '.join(sorted(known[path]))}"


def bare(text):
    """A block without remarks, blank lines and trailing blanks."""
    lines = (REMARK.sub("", line).rstrip() for line in text.split("\n"))
    return [line for line in lines if line]


def out_of_step(page, translation):
    """Where a translation is not what its original is."""
    levels = [level for level, _ in page.headings], [level for level, _ in translation.headings]
    if levels[0] != levels[1]:
        yield f"{translation.path}: {len(levels[1])} headings of other levels than the {len(levels[0])} of {page.path.name}"
    ours, theirs = ([block for block in each.blocks if block.text is not None] for each in (page, translation))
    if len(ours) != len(theirs):
        yield f"{translation.path}: {len(theirs)} blocks, {page.path.name} has {len(ours)}"
    for one, other in zip(ours, theirs):
        if one.language != other.language or bare(one.text) != bare(other.text):
            yield f"{translation.path}:{other.line}: is not the block of {page.path.name}:{one.line} (remarks aside)"
    targets = [{re.sub(r"\.zh-CN(?=\.md)", "", link).partition("#")[0] for _, link in each.links} for each in (page, translation)]
    for missing in sorted(targets[0] ^ targets[1]):
        if missing and not missing.endswith((page.path.name, translation.path.name)):
            yield f"{translation.path}: a link to {missing} is in one of the two only"


def figures(root, paths):
    """Figures that are not those of bench/results: `1.8 ms <!-- bench: SETUP LANGUAGE PACE -->` or `… SETUP floor NAME -->`."""
    results = json.loads((root / "bench/results/latest.json").read_text(encoding="utf-8"))
    medians = {}
    for setup in results["latencies"]:
        for name, times in setup["floors"]:
            medians[setup["setup"], "floor", name] = times["p50_ms"]
        for row, times in setup["executions"]:
            if not row["in_session"]:
                medians[setup["setup"], row["language"], row["pace"]] = times["p50_ms"]
    for path in paths:
        for said, key in re.findall(r"([\d.]+) ms <!-- bench: (.*?) -->", path.read_text(encoding="utf-8")):
            measured = medians.get(tuple(key.split()))
            if measured is None or f"{measured:.1f}" != said:
                yield f"{path}: {said} ms ({key}) is not what bench/results says: {measured}"
