"""The reference is what the code says, and the code exports what the reference lists."""

import importlib
import json
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rowcast.service.settings import IssuerSettings, Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ["rowcast", "rowcast.http", "rowcast.postgres", "rowcast.client", "rowcast.testing"]


def generator() -> Any:
    loader = SourceFileLoader("reference", str(ROOT / "scripts" / "reference"))
    spec = spec_from_loader("reference", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


GENERATED: dict[str, str] = generator().generate()


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_the_reference_is_up_to_date(name: str) -> None:
    committed = ROOT / "docs" / "reference" / name
    assert committed.is_file(), "run scripts/reference"
    assert committed.read_text(encoding="utf-8") == GENERATED[name], "run scripts/reference"


def test_no_schema_is_left_over() -> None:
    committed = {f"schemas/{path.name}" for path in (ROOT / "docs" / "reference" / "schemas").iterdir()}
    assert committed == {name for name in GENERATED if name.startswith("schemas/")}


@pytest.mark.parametrize("name", sorted(name for name in GENERATED if name.startswith("schemas/")))
def test_schemas_are_sound_and_open(name: str) -> None:
    schema = json.loads(GENERATED[name])
    Draft202012Validator.check_schema(schema)
    received = ("New", "RequestChange", "SessionChange", "ClientMeasurements")
    if not name.startswith(tuple(f"schemas/{each}" for each in received)):
        assert "additionalProperties" not in GENERATED[name]  # what is sent gains fields


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_those_of_the_reference(package: str) -> None:
    section = GENERATED["python.md"].partition(f"## `{package}`\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    module = importlib.import_module(package)
    assert [name for name, _ in listed] == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    for name, meaning in listed:
        assert getattr(module, name) is not None
        assert meaning, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("model", [Settings, IssuerSettings])
def test_every_setting_says_what_it_is_for(model: Any) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_rowcast_imports_nothing_of_others() -> None:
    code = """
import sys
before = set(sys.modules)
import rowcast
rowcast.__all__
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(names - set(sys.stdlib_module_names)))
"""
    assert run(code).strip() == "['rowcast']"


def test_the_library_needs_three_packages_only() -> None:
    """With everything else blocked, all public names of the library part can be had."""
    code = """
import sys

ALLOWED = {"rowcast", "starlette", "asyncpg", "jwt",
           # what these three bring along
           "anyio", "idna", "sniffio", "typing_extensions", "cryptography", "cffi", "_cffi_backend", "async_timeout"}

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
for name in [name for name in sys.modules if name.partition(".")[0] not in sys.stdlib_module_names]:
    if not name.startswith("__"):
        del sys.modules[name]
import importlib
for package in ("rowcast", "rowcast.http", "rowcast.postgres", "rowcast.testing"):
    module = importlib.import_module(package)
    for name in module.__all__:
        getattr(module, name)
try:
    import pydantic
except ModuleNotFoundError:
    print("blocked")
"""
    assert run(code).strip() == "blocked"
