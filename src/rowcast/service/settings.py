"""Every setting of the service, read from the environment in this one place."""

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from rowcast import ConfigurationError
from rowcast.http import cors_options
from rowcast.postgres import SourceName, normalise_dsn

__all__ = ["IssuerSettings", "Settings", "load_settings"]

PREFIX = "ROWCAST_"

T = TypeVar("T")


class IssuerSettings(BaseModel):
    """An issuer of user tokens: where its keys are, and what its tokens must say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str = Field(description="Short name; owners are stored as `alias|sub`.")
    issuer: str = Field(description="The `iss` claim, exactly.")
    audience: str = Field(description="The `aud` claim.")
    jwks_url: str | None = Field(None, description="HTTPS address of its public keys.")
    public_key: str | None = Field(None, description="A public key in PEM form, instead of `jwks_url`.")
    algorithms: tuple[str, ...] = Field(("RS256", "ES256", "EdDSA"), description="Signature algorithms to accept.")


class Settings(BaseSettings):
    """The settings of the service; each is an environment variable with the prefix `ROWCAST_`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True)

    database_url: str = Field("", description="The primary, as a libpq URI or SQLAlchemy URL. A pooler is fine here.")
    listen_database_url: str = Field(
        "",
        description="Where to LISTEN, if the database URL leads through a pooler; must be the same primary, directly.",
    )
    database_connections: int = Field(8, ge=1, le=200, description="Connections of one process for requests and reads.")

    host: str = Field("127.0.0.1", description="Address to bind.")
    port: int = Field(8000, ge=0, le=65535, description="Port to bind.")
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Other origins whose pages may call with cookies or tokens, comma-separated; never `*`."
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1", description="Proxies whose X-Forwarded-* headers are believed, comma-separated."
    )

    signing_key_file: Path | None = Field(
        None, description="Ed25519 private key (PEM) for guest tokens and tickets, shared by all workers."
    )
    guest_enabled: bool = Field(False, description="Whether anybody may get a guest token.")
    guest_ttl_seconds: int = Field(86_400, ge=60, le=31_536_000, description="How long a guest token lasts.")
    guest_per_minute: int = Field(10, ge=1, description="Guest tokens a minute and address.")
    ticket_ttl_seconds: int = Field(60, ge=5, le=600, description="How long a stream ticket lasts.")
    issuers: tuple[IssuerSettings, ...] = Field((), description="Issuers of user tokens, as a JSON list.")

    sse_enabled: bool = Field(
        True,
        validation_alias=AliasChoices("ROWCAST_SSE_ENABLED", "ENABLE_SSE_ENDPOINT"),
        description="Whether streams are served at all; polling always is. `rowcast rollout off` also ends them.",
    )
    sse_rollout_percent: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Share of the users who are offered streams; unset means all. `rowcast rollout` beats it.",
    )
    sse_salt: str = Field(
        "sse-v1", max_length=64, description="Another salt chooses other users. `rowcast rollout --salt` beats it."
    )
    sse_fallback: bool | None = Field(
        None, description="Whether clients may fall back to polling; unset leaves it to them."
    )
    track_sse_metrics: bool | None = Field(
        None, description="Whether clients send what they measure; unset leaves it to them, false refuses it."
    )
    heartbeat_ms: int = Field(5000, ge=1000, le=60_000, description="Silence after which a stream shows life.")
    max_stream_age_seconds: float = Field(3600, gt=0, description="Age at which a stream is ended, ± 10 %.")
    write_timeout_seconds: float = Field(20, gt=0, description="How long a blocked write may take.")
    drain_seconds: float = Field(5, ge=0, le=300, description="Window over which clients return after a shutdown.")
    recheck_seconds: float = Field(
        60, gt=0, description="How often an open stream asks whether its session is still its owner's."
    )
    streams_per_owner: int = Field(20, ge=1, description="Streams and held polls one user may have open in a process.")
    streams_per_process: int | None = Field(
        None, ge=1, description="Streams and held polls of a process; by default 80 % of its descriptor limit."
    )
    source: SourceName = Field(
        "notify",
        description="Where changes come from: `notify` listens, and asks where that is not heard; `poll` asks.",
    )
    source_tick_max_ms: int = Field(
        1000, ge=5, le=60_000, description="Longest pause between two questions of a source that asks."
    )
    probe_seconds: float = Field(5, gt=0, le=60, description="How often LISTEN is proved to work.")
    sweep_seconds: float = Field(30, gt=0, description="How often the watched sessions are read again, to be sure.")
    poll_interval_ms: int = Field(1000, ge=100, description="Poll interval while something is open.")
    poll_idle_interval_ms: int = Field(15_000, ge=100, description="Poll interval when all is terminal.")

    lease_seconds: float = Field(
        20, ge=2, le=25, description="How long a worker may be silent before it counts as lost."
    )
    worker_concurrency: int = Field(10, ge=1, le=1000, description="Requests one worker answers at a time.")
    worker_grace_seconds: float = Field(
        20, ge=0, le=3600, description="How long a worker that is told to stop lets running requests go on."
    )
    log_format: str = Field("auto", pattern="^(auto|console|json)$", description="`console`, `json`, or by terminal.")

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _accepted(cors_options, value)

    @field_validator("database_url", "listen_database_url")
    @classmethod
    def _check_dsn(cls, value: str) -> str:
        return _accepted(normalise_dsn, value) if value else value

    def with_values(self, **values: object) -> Self:
        """Return these settings with some replaced."""
        return self.model_validate({**self.model_dump(), **values})


def load_settings(**values: object) -> Settings:
    """Read the environment; `values` beat it. Raises `ConfigurationError` that names what is wrong, or unknown."""
    names = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)
            raise ConfigurationError(f"unknown setting {name}; did you mean {nearest[0]}?")
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = (_problem(item) for item in error.errors(include_input=False, include_url=False))
        raise ConfigurationError("; ".join(problems)) from None
    except SettingsError as error:
        field = re.search(r'"(\w+)"', str(error))
        name = f"{PREFIX}{field[1].upper()}" if field else "a setting"
        raise ConfigurationError(f"{name}: this is not JSON") from None


def _accepted(check: Callable[[T], object], value: T) -> T:
    """Return `value` if `check` does not object to it."""
    try:
        check(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    return value


def _problem(item: ErrorDetails) -> str:
    """Say in one line which variable is wrong, and why."""
    field, *inside = [str(part) for part in item["loc"]]
    name = PREFIX + field.upper().removeprefix(PREFIX)
    if name not in os.environ and name == "ROWCAST_SSE_ENABLED":
        name = "ENABLE_SSE_ENDPOINT"
    place = f" ({'.'.join(inside)})" if inside else ""
    return f"{name}{place}: {' '.join(item['msg'].removeprefix('Value error, ').split())}"
