"""The command line. Modules are imported by the command that needs them, so that `--help` is quick."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer

from rowcast.errors import ConfigurationError, RowcastError

if TYPE_CHECKING:
    from rowcast.service.settings import Settings

__all__ = ["app", "main"]

P = ParamSpec("P")
Transport = Literal["auto", "sse", "poll"]

app = typer.Typer(
    help="Commit a row in PostgreSQL, and every browser allowed to see it knows within milliseconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    app()


def one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Say in one line on stderr what went wrong and how to cure it, and exit with 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except RowcastError as error:
            typer.echo(f"rowcast: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return run


@app.command()
@one_line_errors
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind [ROWCAST_HOST].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind [ROWCAST_PORT].")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Server processes.")] = 1,
) -> None:
    """Run the HTTP server."""
    from rowcast.service.serving import serve_forever

    settings = _settings(host=host, port=port)
    _check_database(settings)
    serve_forever(settings, workers=workers)


@app.command()
@one_line_errors
def worker() -> None:
    """Answer requests; run as many as you like, beside the server or elsewhere."""
    from rowcast.service.serving import work_forever

    settings = _settings()
    _check_database(settings)
    asyncio.run(work_forever(settings))


@app.command()
@one_line_errors
def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False,
) -> None:
    """Bring the database to the newest revision. Safe under load, and safe to run many times at once."""
    from rowcast.service import migrations

    if sql:
        migrations.print_sql()
        return
    settings = _settings()
    done = migrations.migrate(_required_database(settings))
    typer.echo("The database was migrated." if done else "The database is up to date.")


@app.command()
@one_line_errors
def rollout(
    share: Annotated[
        str | None,
        typer.Argument(
            help="A percentage of the users, `on`, `off`, or `reset`: the settings decide. Without it, show."
        ),
    ] = None,
    salt: Annotated[str | None, typer.Option(help="Another salt chooses other users.")] = None,
) -> None:
    """Say who is offered streams, on all servers, while they run. Who is not any more is sent to polling."""
    from rowcast.service.rollout import change_rollout

    settings = _settings()
    _required_database(settings)
    typer.echo(asyncio.run(change_rollout(settings, share, salt=salt)))


@app.command()
@one_line_errors
def demo(
    port: Annotated[int, typer.Option(envvar="PORT", min=0, max=65535, help="Port of the page.")] = 8000,
    data: Annotated[Path, typer.Option(help="Where the demo keeps its database and key.")] = Path(".rowcast"),
) -> None:
    """Run everything on this machine: a database, the server, a worker and a page to look at."""
    # Ctrl-C is how it is meant to end, and SIGTERM is to clean up just the same.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        from rowcast.service.demo import run_demo

        run_demo(port=port, data=data)


@app.command(name="demo-data")
@one_line_errors
def demo_data(
    remove: Annotated[bool, typer.Option("--remove", help="Take it away again.")] = False,
) -> None:
    """Install the demo data that the built-in questions are about."""
    from rowcast.service.demo import change_demo_data

    done = asyncio.run(change_demo_data(_required_database(_settings()), remove=remove))
    typer.echo({(True, False): "The demo data was installed.", (True, True): "The demo data was removed."}
               .get((done, remove), "There was nothing to do."))  # fmt: skip


@app.command()
@one_line_errors
def tail(
    session: Annotated[str, typer.Argument(help="The session to follow.")],
    url: Annotated[str, typer.Option(help="Where the service is.")] = "http://127.0.0.1:8000",
    token: Annotated[str | None, typer.Option(help="Token; without one, the signing key speaks for the owner.")] = None,
    transport: Annotated[Transport, typer.Option(help="How to follow.")] = "auto",
) -> None:
    """Follow a session in the terminal: every change, its transport and its lag."""
    from rowcast.service.tailing import follow, owner_token

    bearer = token or asyncio.run(owner_token(_settings(), session))
    asyncio.run(follow(url, session, token=bearer, transport=transport))


def _settings(**values: Any) -> "Settings":
    from rowcast.service.logs import configure_logs
    from rowcast.service.settings import load_settings

    settings = load_settings(**{name: value for name, value in values.items() if value is not None})
    configure_logs(settings.log_format)
    return settings


def _required_database(settings: "Settings") -> str:
    if not settings.database_url:
        raise ConfigurationError("set ROWCAST_DATABASE_URL to your database, or try `rowcast demo`, which brings one")
    return settings.database_url


def _check_database(settings: "Settings") -> None:
    """Find out now, and say in one line, what would otherwise be a stack trace or a 503 later."""
    from rowcast.service.migrations import is_migrated

    if not asyncio.run(is_migrated(_required_database(settings))):
        raise ConfigurationError("the database is not migrated; run `rowcast migrate` first")


if __name__ == "__main__":
    sys.exit(app())
