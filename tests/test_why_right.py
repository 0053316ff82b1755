"""docs/why-right.md names tests that exist, and its table of power has the figures of the tests themselves."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "why-right.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))
POWER = re.findall(
    r"^\| [^|]+ \| `(tests/[\w/]+\.py)::(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.M
)
HELD = re.findall(r"`(\w+)\.check_valid`", PAGE)


def function(file: str, name: str) -> str:
    text = (ROOT / file).read_text()
    found = next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name)
    return ast.get_source_segment(text, found) or ""


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_is_named_exists(file, name):
    assert (ROOT / file).is_file()
    assert not name or function(file, name)


def test_the_table_of_power_is_found():
    assert len(POWER) > 15


@pytest.mark.parametrize(("file", "name", "draws", "effect", "chance"), POWER)
def test_the_figures_of_power_are_those_of_the_test(file, name, draws, effect, chance):
    own = function(file, name).replace("**", "^")
    module = own + re.sub(r"\*\*", "^", "\n".join(re.findall(r"^[A-Z]+ = .*", (ROOT / file).read_text(), re.M)))
    assert draws.split()[0] in module
    assert effect.split()[0] in own
    assert re.search(rf"(?<![\d.]){re.escape(chance)}(?!\d)", own)


@pytest.mark.parametrize("name", sorted(set(HELD)))
def test_each_part_that_is_said_to_check_itself_does(name):
    sources = "".join(file.read_text() for file in (ROOT / "src" / "replaybank").rglob("*.py"))
    bodies = re.findall(rf"^class {name}\b.*?(?=^\S|\Z)", sources, re.M | re.S)
    assert any("def check_valid" in body for body in bodies)
