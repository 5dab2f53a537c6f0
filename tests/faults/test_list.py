"""Every fault of the list is shown to be survived: some test is marked with its number."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "nothing-lost.md"

# What servers and the Python client are shown to survive. The page adds what is a browser's, and then it is the list.
NUMBERS = {*range(1, 13), *range(14, 36), *range(45, 53), 54, *range(56, 68)}


def marks(source: str) -> Iterator[int]:
    """The numbers of all `pytest.mark.fault(N)` in a module, wherever they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.fault"):
            for argument in node.args:
                assert isinstance(argument, ast.Constant), f"line {node.lineno}: the number of a fault is written out"
                assert type(argument.value) is int, f"line {node.lineno}: a fault is named by its number"
                yield argument.value


def listed() -> set[int]:
    """The numbers of the table in the page, once there is one: rows that begin with a number."""
    if not PAGE.is_file():
        return NUMBERS
    return {int(number) for number in re.findall(r"^\| *(\d+) *\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)}


def marked() -> set[int]:
    """The numbers that tests are marked with, in Python, and in TypeScript by `fault(N)`."""
    python = {number for path in (ROOT / "tests").rglob("*.py") for number in marks(path.read_text(encoding="utf-8"))}
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "client" / "test").rglob("*.ts")]
    return python | {int(number) for text in scripts for number in re.findall(r"\bfault\((\d+)\)", text)}


MARKED = marked()


@pytest.mark.parametrize("number", sorted(listed()))
def test_a_fault_is_shown_to_be_survived(number: int) -> None:
    assert number in MARKED


def test_the_page_lists_what_is_shown() -> None:
    assert listed() >= NUMBERS
    assert listed() >= MARKED


def test_marks_are_found_wherever_they_stand() -> None:
    source = "pytestmark = [pytest.mark.fault(1)]\n@pytest.mark.fault(2)\n@mark.fault(3)\ndef test(): pass\nfault(4)"
    assert set(marks(source)) == {1, 2, 3}
