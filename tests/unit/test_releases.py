"""Releases are written down by commit: a tag may not travel with a clone, and deploys go back to them."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELEASES = json.loads((ROOT / "deploy" / "releases.json").read_text(encoding="utf-8"))


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout


HAS_HISTORY = git("rev-parse", "--is-shallow-repository").strip() == "false"
needs_history = pytest.mark.skipif(not HAS_HISTORY, reason="a shallow clone has no history: git fetch --unshallow")


@needs_history
def test_every_release_is_part_of_the_history() -> None:
    history = set(git("rev-list", "HEAD").split())
    assert [release["version"] for release in RELEASES if release["commit"] not in history] == []


def test_a_release_has_its_section_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for release in RELEASES:
        assert f"## {release['version']} ({release['date']})" in changelog


@needs_history
def test_a_release_says_its_own_version() -> None:
    for release in RELEASES:
        assert f'version = "{release["version"]}"' in git("show", f"{release['commit']}:pyproject.toml")
