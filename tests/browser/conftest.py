"""People with browsers: each has cookies of their own, and whatever the page complains about fails the test."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from tests.conftest import CHROMIUM, Server
from tests.support.database import execute

PATIENCE_MS = 30_000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NOTES = (Path(__file__).parent / "take_notes.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def migrated_template(demo_template: str) -> str:
    """Every database of these tests has the demo data."""
    return demo_template


@pytest.fixture(scope="module")
def browser(migrated_template: str) -> Iterator[Browser]:
    """One browser for a module. Playwright occupies the thread's event loop, so the template is made before."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """A person with a browser of their own."""

    context: BrowserContext
    url: str
    complaints: list[str] = field(default_factory=list)
    forgiven: list[str] = field(default_factory=list)

    def open(self, address: str = "") -> Page:
        """Open the page in a new tab, and wait until it can be used."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.url + "/" + address)
        expect(page.locator("#request-preview")).not_to_be_empty()
        expect(page.locator("#connection-state")).to_have_attribute("data-state", re.compile("live|polling"))
        return page

    def forgive(self, pattern: str) -> None:
        """Expect complaints that match."""
        self.forgiven.append(pattern)

    def unexpected(self) -> list[str]:
        return [text for text in self.complaints if not any(re.search(pattern, text) for pattern in self.forgiven)]


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Let somebody new come: `visit(server, color_scheme="dark").open()`."""
    visitors: list[Visitor] = []

    def come(server: Server, **options: Any) -> Visitor:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options})
        context.add_init_script(NOTES)
        visitors.append(Visitor(context, server.url))
        return visitors[-1]

    yield come
    unexpected = [text for visitor in visitors for text in visitor.unexpected()]
    for visitor in visitors:
        visitor.context.close()
    assert unexpected == []


def sql(dsn: str, statement: str, *arguments: Any) -> list[Any]:
    """Run one statement from outside, as any other program would. Returns its rows."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(execute, dsn, statement, *arguments).result()


def add_request(
    dsn: str, session: str, text: str, *, status: str = "done", response: str | None = None, error: str | None = None
) -> str:
    """Write a request into the table, and tell its id."""
    columns = "(session_id, request, status, response, error)"
    values = "($1::text::uuid, $2, $3::text::request_status, $4, $5)"
    statement = f"INSERT INTO request {columns} VALUES {values} RETURNING request_id"
    return str(sql(dsn, statement, session, text, status, response, error)[0][0])


def ask(page: Page, question: str, **values: object) -> str:
    """Ask through the form, as a person does. Returns the id of the request."""
    before = page.locator(".request").count()
    page.get_by_label("Question", exact=True).select_option(question)
    for name, value in values.items():
        page.get_by_label(name.capitalize(), exact=True).fill(str(value))
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".request")).to_have_count(before + 1)
    return page.locator(".request").first.get_attribute("data-request-id") or ""


def add_session(page: Page, name: str | None = None) -> str:
    """Make a session, give it a name, and tell its id."""
    before = page.url
    page.get_by_role("button", name="New session").click()
    page.wait_for_function("before => location.href !== before", arg=before)
    expect(page.locator("#connection-state")).to_have_attribute("data-transport", re.compile("stream|poll"))
    if name:
        page.get_by_role("button", name="Rename").click()
        page.get_by_role("textbox", name="Name").fill(name)
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
    return session_of(page)


def session_of(page: Page) -> str:
    return page.url.partition("#session=")[2]


def card(page: Page, request_id: str) -> Locator:
    return page.locator(f'[data-request-id="{request_id}"]')


def expect_status(page: Page, request_id: str, status: str) -> None:
    expect(card(page, request_id)).to_have_attribute("data-status", status)


def statuses_shown(page: Page, request_id: str) -> list[str]:
    """Every status that the page has shown of a request since it was opened, in order."""
    return list(
        page.evaluate("id => notes.statuses.filter(([of]) => of === id).map(([, status]) => status)", request_id)
    )
