"""Rules of the house that a machine can check."""

import ast
import re
from pathlib import Path

import pytest

from rowcast import errors
from rowcast.http import STATUS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "rowcast"
MODULES = sorted(SOURCE.rglob("*.py"))
LIVE = ["hub.py", "feeds.py", "subscription.py", "latest.py", "event.py", "sse.py", "cursor.py", "metrics.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_has_one_job(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert not path.read_text(encoding="utf-8") or ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", [*LIVE, "postgres/listener.py", "postgres/reader.py", "postgres/notification.py"])
def test_the_live_part_knows_no_table(name: str) -> None:
    """`Watch` describes the table; nothing else of the live part may know what is watched."""
    text = (SOURCE / name).read_text(encoding="utf-8")
    assert not re.search(r"\brequest(s|_id)?\b(?!ed)", text)


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
    assert not drawers & {path.stem for path in MODULES}


def test_every_exception_is_drawn_in_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"RowcastError"}
    defined = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert drawn == defined == set(errors.__all__)


def test_every_refusal_has_a_status() -> None:
    def leaves(kind: type[errors.RowcastError]) -> list[type[errors.RowcastError]]:
        return [leaf for sub in kind.__subclasses__() for leaf in leaves(sub)] or [kind]

    assert [leaf for leaf in leaves(errors.Refused) if not any(issubclass(leaf, kind) for kind in STATUS)] == []


def test_lock_files_name_no_address() -> None:
    for path in ROOT.glob("requirements*.lock"):
        assert not re.search(r"https?://|index-url|find-links", path.read_text(encoding="utf-8"))
