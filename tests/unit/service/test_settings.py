"""Settings: what is unknown or wrong is refused in one line that names the variable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rowcast import ConfigurationError
from rowcast.service.settings import Settings, load_settings

ISSUER = '[{"alias": "a", "issuer": "https://idp.example/", "audience": "b", "jwks_url": "https://idp.example/keys"}]'


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ROWCAST_") or name == "ENABLE_SSE_ENDPOINT":
            monkeypatch.delenv(name)


def test_defaults_are_good() -> None:
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("ROWCAST_PORT", "8123", "port", 8123),
        ("ROWCAST_DATABASE_URL", "postgresql+asyncpg://u:p@h/d", "database_url", "postgresql+asyncpg://u:p@h/d"),
        ("ROWCAST_ALLOWED_ORIGINS", "https://a.example, https://b.example,", "allowed_origins",
         ("https://a.example", "https://b.example")),
        ("ROWCAST_ALLOWED_ORIGINS", "", "allowed_origins", ()),
        ("ROWCAST_SIGNING_KEY_FILE", "/k.pem", "signing_key_file", Path("/k.pem")),
        ("ROWCAST_GUEST_ENABLED", "true", "guest_enabled", True),
        ("ROWCAST_SSE_ENABLED", "false", "sse_enabled", False),
        ("ENABLE_SSE_ENDPOINT", "false", "sse_enabled", False),
        ("ROWCAST_STREAMS_PER_PROCESS", "5", "streams_per_process", 5),
    ],
)  # fmt: skip
def test_are_read(monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, value: object) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(load_settings(), field) == value


def test_issuers_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_ISSUERS", ISSUER)
    assert load_settings().issuers[0].algorithms == ("RS256", "ES256", "EdDSA")


def test_what_is_passed_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_PORT", "1")
    assert load_settings(port=2).port == 2
    assert load_settings().with_values(port=3, sse_enabled=False).sse_enabled is False


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [("ROWCAST_PROT", "ROWCAST_PORT"), ("ROWCAST_DB_URL", "ROWCAST_DATABASE_URL"), ("ROWCAST_", "ROWCAST_"),
     ("ROWCAST_HEARTBEAT", "ROWCAST_HEARTBEAT_MS"), ("ROWCAST_SSE_ENABLE", "ROWCAST_SSE_ENABLED")],
)  # fmt: skip
def test_unknown_names_are_refused_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, unknown: str, nearest: str
) -> None:
    monkeypatch.setenv(unknown, "x")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"unknown setting {unknown}; did you mean {nearest}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ROWCAST_PORT", "x"), ("ROWCAST_PORT", "65536"), ("ROWCAST_GUEST_ENABLED", "maybe"),
        ("ROWCAST_HEARTBEAT_MS", "999"), ("ROWCAST_DRAIN_SECONDS", "-1"), ("ROWCAST_LOG_FORMAT", "xml"),
        ("ROWCAST_SSE_ENABLED", "2"), ("ENABLE_SSE_ENDPOINT", "2"), ("ROWCAST_ISSUERS", "{"), ("ROWCAST_ISSUERS", "x"),
        ("ROWCAST_ISSUERS", '[{"alias": "a"}]'), ("ROWCAST_ISSUERS", ISSUER.replace("alias", "alais")),
        ("ROWCAST_ALLOWED_ORIGINS", "*"), ("ROWCAST_ALLOWED_ORIGINS", "https://a.example/path"),
        ("ROWCAST_DATABASE_URL", "mysql://x"), ("ROWCAST_LISTEN_DATABASE_URL", "x"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(name)
    assert "\n" not in message


def test_a_secret_is_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_DATABASE_URL", "mysql://me:s3cret@host/db")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("command", [["-m", "rowcast.cli", "worker"], ["-m", "uvicorn", "rowcast.service.main:app"]])
def test_a_process_says_so_in_one_line_and_ends(command: list[str]) -> None:
    environment = {**os.environ, "ROWCAST_PROT": "8000"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "rowcast: unknown setting ROWCAST_PROT; did you mean ROWCAST_PORT?\n"
