"""The settings of the program, as config.default.toml documents them, and what a chart may let people write for each.

The file is made from the table that the program itself reads its settings by, so what is missing here is missing there.
"""

import dataclasses
import pathlib
import re
import tomllib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# How the documentation says what a token is; nothing else is said like this.
TOKEN = "visible ASCII characters without spaces"
LIST = "several separated by commas"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting: its environment variable, what it is for, what is allowed, and its default where it has one."""

    name: str
    doc: str
    allowed: str
    default: object

    @property
    def is_secret(self):
        """Whether it must not stand in a file that people share."""
        return self.allowed == TOKEN

    def schema(self):
        """What the chart takes for it. The program has the last word; this catches what can be caught earlier."""
        return {"description": self.doc, **self._shape()}

    def _shape(self):
        whole = re.fullmatch(r"a whole number from (\d+) to (\d+)( \(seconds\)|, or auto)?", self.allowed)
        if whole:
            number = {"type": "integer", "minimum": int(whole[1]), "maximum": int(whole[2])}
            return {"anyOf": [number, {"enum": ["auto", None]}]} if whole[3] == ", or auto" else nullable(number)
        decimal = re.fullmatch(r"a number from ([\d.]+) to ([\d.]+)", self.allowed)
        if decimal:
            return nullable({"type": "number", "minimum": float(decimal[1]), "maximum": float(decimal[2])})
        if isinstance(self.default, bool):
            return {"type": ["boolean", "null"]}
        if LIST in self.allowed:
            return {"type": ["array", "string", "null"], "items": {"type": "string", "minLength": 1}}
        if re.fullmatch(r"\w+(, \w+)+", self.allowed):
            return {"enum": [*self.allowed.split(", "), None]}
        return {"type": ["string", "null"]}

    def example(self):
        """A value that is allowed and is not the default, to see where it arrives."""
        shape = self._shape()
        number = next((kind for kind in [shape, *shape.get("anyOf", [])] if "maximum" in kind), None)
        if number:
            return number["maximum"]
        if isinstance(self.default, bool):
            return not self.default
        if "enum" in shape:
            return next(name for name in shape["enum"] if name != self.default)
        return EXAMPLES[self.name]


# Of those whose rule is a sentence. A new one needs its line, and the test says so.
EXAMPLES = {
    "EXECUTOR_HOST": "::",
    "ALLOWED_ORIGINS": ["https://one.example", "http://two.example:81"],
    "ALLOWED_HOSTS": ["one.example", "10.0.0.1"],
    "WORKSPACE_PATH": "/srv/workspaces",
    "STATE_PATH": "/srv/state",
    "CONTROL_PLANE_URL": "https://control-plane-service:8443/base",
    "CONTAINER_ID": "container-7",
    "POD_NAME": "pod-7",
    "PYTHON_PATH": "/usr/bin/python3",
    "NODE_PATH_BIN": "/usr/bin/node",
    "SHELL_PATH": "/bin/bash",
    "ALLOWED_INDEX_URLS": ["https://index.example/simple", "file:///srv/index"],
    "WARM_PYTHON_IMPORTS": ["json", "urllib.parse"],
    "LOG_FILE": "/var/log/executor/other.log",
}


def nullable(shape):
    """The same, or null: "as if it were not there"."""
    return {**shape, "type": [shape["type"], "null"]}


def settings():
    """All of them, in the order in which they are documented."""
    text = (REPOSITORY / "config.default.toml").read_text()
    row = r"((?:^# .*\n)+?)^# Allowed: (.*?)\. Flag: --\S+\n^#(\w+) = (.*)$"
    return [
        Setting(
            name=match[3].upper(),
            doc=" ".join(line.removeprefix("# ") for line in match[1].splitlines()),
            allowed=match[2],
            default=tomllib.loads(f"value = {match[4]}")["value"],
        )
        for match in re.finditer(row, text, re.MULTILINE)
    ]
