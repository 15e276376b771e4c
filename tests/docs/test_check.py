"""That the checks of the documents find what they are for: each with something wrong, and beside it the same in order."""

import json
import tempfile
import unittest
from pathlib import Path

import pages
import structure
from runner import Failed, Needs, Runner, bash, differences, last_json


class Checks(unittest.TestCase):
    """Pages that are made up."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = Path(self.folder.name)

    def page(self, text, name="page.md"):
        """A page of this text."""
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return pages.read(path)

    def test_a_block_without_a_marker_is_named(self):
        good = self.page("# T\n<!-- test: run expect='a b' needs=docker needs=jq own -->\n\n```bash\necho a b\n```\n")
        marker = good.blocks[0].marker
        self.assertEqual((marker.verb, marker.words, marker.all("expect"), marker.all("needs")), ("run", ["own"], ["a b"], ["docker", "jq"]))
        self.assertEqual(list(structure.unmarked([good], {good.path})), [])
        bad = self.page("Text.\n```bash\ntrue\n```\n")
        self.assertIn(":2: a block without a marker", next(structure.unmarked([bad], {bad.path})))
        for text in ["<!-- test: run -->\nText.\n", "<!-- test: runs -->\n```bash\n```\n", "```bash\ntrue\n"]:
            with self.assertRaises(pages.Malformed):
                self.page(text)

    def test_links_lead_somewhere(self):
        self.page("# Über `uns`, und 常见问题\n", "other.md")
        page = self.page("[a](other.md#über-uns-und-常见问题) [b](https://example.com/x) `[c](no.md)` [d](no.md) [e](other.md#no)\n")
        found = list(structure.links(self.root, [page, pages.read(self.root / "other.md")]))
        self.assertEqual(["no.md leads" in found[0], "other.md#no: there is no" in found[1], len(found)], [True, True, 2])

    def test_translations_are_in_step(self):
        text = "# A\n## B\n```bash\necho 1  # one\n```\n[x](x.md)\n"
        original = self.page(text)
        same = "# 甲\n## 乙\n```bash\necho 1  # 一\n```\n[某](x.md)\n"
        self.assertEqual(list(structure.out_of_step(original, self.page(same, "page.zh-CN.md"))), [])
        for change in [("## 乙\n", ""), ("echo 1", "echo 2"), ("x.md", "y.md"), ("```bash\necho 1  # 一\n```\n", "")]:
            other = self.page(same.replace(*change), "page.zh-CN.md")
            self.assertNotEqual(list(structure.out_of_step(original, other)), [], change)

    def test_figures_are_those_of_the_bench(self):
        (self.root / "bench/results").mkdir(parents=True)
        rows = [[{"language": "python", "in_session": False, "pace": "interactive"}, {"p50_ms": 1.77}]]
        results = {"latencies": [{"setup": "native", "floors": [["node", {"p50_ms": 16.04}]], "executions": rows}]}
        (self.root / "bench/results/latest.json").write_text(json.dumps(results), encoding="utf-8")
        text = "1.8 ms <!-- bench: native python interactive --> 16.0 ms <!-- bench: native floor node -->"
        self.assertEqual(list(structure.figures(self.root, [self.page(text).path])), [])
        self.assertEqual(len(list(structure.figures(self.root, [self.page(text.replace("1.8", "1.7")).path]))), 1)
        self.assertEqual(len(list(structure.figures(self.root, [self.page(text.replace("node", "nod")).path]))), 1)

    def test_answers_are_compared(self):
        shown = {"a": 1, "b": "x…", "c": 0.5, "d": [{"at": "2026-01-09T10:00:00.000Z"}]}
        real = {"a": 1, "b": "xyz", "c": 7, "d": [{"at": "2027-11-19T11:22:33.456Z"}]}
        self.assertEqual(list(differences(shown, real, False)), [])
        for change in [{"a": 2}, {"a": True}, {"b": "y"}, {"c": "7"}, {"d": []}, {"d": [{"at": "now"}]}, {"e": 1}]:
            self.assertNotEqual(list(differences(shown, real | change, False)), [], change)
        self.assertEqual(list(differences(shown, real | {"e": 1}, True)), [])
        self.assertEqual(last_json('HTTP/1.1 200 OK\n{"a":1}\nmore {"b":[2]}\n'), {"b": [2]})

    def test_blocks_that_fail_are_failures(self):
        runner = Runner("/bin/true", Needs(None))
        self.addCleanup(runner.close)

        def run(marker, text="echo one; echo two"):
            page = self.page(f"<!-- test: {marker} -->\n```bash\n{text}\n```\n")
            runner.block(page.blocks[0])

        run("run expect='^two$' refuse=three")
        run("run exit=3", "exit 3")
        run("run until=two", "echo two; sleep 60")
        run("said by='echo three in 17 ms'", "three in 5 ms")
        for marker, text in [("run expect=three", "echo two"), ("run refuse=two", "echo two"), ("run", "false; true"), ("run", "false | true"),
                             ("run exit=3", "true"), ("run until=two", "echo one"), ("said by='echo three'", "four")]:
            with self.assertRaises(Failed, msg=marker):
                run(marker, text)

    def test_what_is_interrupted_is_gone(self):
        bash("sleep 4711 & echo on; wait", self.root, None, until="on")
        status, output = bash("ps -eo args | grep -c '[s]leep 4711' || true", self.root, None)
        self.assertEqual((status, output), (0, "0\n"))


if __name__ == "__main__":
    unittest.main()
