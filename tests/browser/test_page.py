"""The page, used as people use it."""

import json
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Error, Page, Route, expect
from tests.browser.conftest import (
    Visit,
    add_request,
    add_session,
    ask,
    card,
    expect_status,
    session_of,
    sql,
    statuses_shown,
)
from tests.conftest import Server, StartServer, wait_until

pytestmark = pytest.mark.browser

StartWorker = Callable[..., Any]


def state_is(page: Page, state: str, transport: str | None = None) -> None:
    expect(page.locator("#connection-state")).to_have_attribute("data-state", state)
    if transport:
        expect(page.locator("#connection-state")).to_have_attribute("data-transport", transport)


def change_status(server: Server, request_id: str, status: str, *, response: str | None = None) -> None:
    """Be a worker: update the row."""
    statement = "UPDATE request SET status = $2::text::request_status, response = $3 WHERE request_id = $1::text::uuid"
    sql(server.database_url, statement, request_id, status, response)


def test_a_visit_from_the_first_question_to_the_last_deletion(
    server: Server, start_worker: StartWorker, visit: Visit
) -> None:
    visitor = visit(server)
    answers: list[str] = []
    visitor.context.on(
        "response",
        lambda answer: answers.append(f"{answer.request.method} {urlsplit(answer.url).path} {answer.status}"),
    )
    page = visitor.open()
    heading = page.get_by_role("heading", level=1)

    # Being let in needs no click, and comes before all that only guests may ask.
    assert answers.index("POST /api/auth/guest 201") < answers.index("GET /api/config 200")
    expect(heading).to_have_text("Welcome")
    (cookie,) = visitor.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("rowcast_token", True, "Lax")

    # A slow question, from the click to its table, and every status in between.
    session = add_session(page)
    expect(heading).to_have_text("Session 1")
    slow = ask(page, "every_pair", share=30)
    expect(card(page, slow).locator(".text")).to_have_text("every_pair share=30 count=25")
    expect_status(page, slow, "pending")
    expect(page).to_have_title("(1) Session 1 – Rowcast")
    start_worker()
    expect_status(page, slow, "done")
    assert statuses_shown(page, slow) == ["pending", "in_progress", "done"]
    expect(card(page, slow).locator("tbody tr")).to_have_count(25)
    expect(page).to_have_title("Session 1 – Rowcast")
    expect(page.locator("#lag")).to_have_text(re.compile(r"Last update: \d"))

    # One with a chart, one that fails, one that is not even sent.
    sales = ask(page, "sales_by_month", year=2024)
    expect(card(page, sales).locator("tbody tr")).to_have_count(12)
    expect(card(page, sales).get_by_role("img", name=re.compile("Bar chart of Revenue by Month"))).to_be_visible()
    broken = ask(page, "broken")
    expect(card(page, broken).locator(".failure")).to_contain_text("This question fails on purpose")
    page.get_by_label("Question", exact=True).select_option("sales_by_month")
    page.get_by_label("Year", exact=True).fill("1999")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#ask-error")).to_contain_text("Year: ")
    expect(page.get_by_label("Year", exact=True)).to_be_focused()
    expect(page.locator(".request")).to_have_count(3)

    # Deleting what runs ends it in the database too.
    unwanted = ask(page, "every_pair", share=100)
    expect_status(page, unwanted, "in_progress")
    card(page, unwanted).get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".request")).to_have_count(3)
    running = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query ~ 'bought'"
    )
    wait_until(lambda: not sql(server.database_url, f"{running} AND pid <> pg_backend_pid()"), what="it was cancelled")

    # What another program writes appears by itself.
    foreign = add_request(server.database_url, session, "a report", status="pending")
    expect_status(page, foreign, "pending")
    change_status(server, foreign, "in_progress")
    expect_status(page, foreign, "in_progress")
    change_status(server, foreign, "done", response="Forty-two.")
    expect_status(page, foreign, "done")
    expect(card(page, foreign).locator(".plain")).to_have_text("Forty-two.")
    assert statuses_shown(page, foreign) == ["pending", "in_progress", "done"]

    # Rate, run again, rename.
    good = card(page, sales).get_by_role("button", name="Good answer")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    rating = "SELECT rating FROM request WHERE request_id = $1::text::uuid"
    assert sql(server.database_url, rating, sales)[0][0] == 1
    card(page, broken).get_by_role("button", name="Run again").click()
    page.wait_for_function(
        "id => notes.statuses.filter(([of, is]) => of === id && is === 'error').length > 1", arg=broken
    )
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("textbox", name="Name").fill("Spring review")
    page.get_by_role("button", name="Save").click()
    expect(heading).to_have_text("Spring review")
    expect(page.get_by_role("navigation").get_by_role("link", name="Spring review")).to_have_attribute(
        "aria-current", "page"
    )

    # The same by polling, and after a reload: same guest, same sessions, same choice.
    page.get_by_label("Updates by").select_option("poll")
    state_is(page, "polling", "poll")
    polled = ask(page, "sales_by_month", year=2023)
    expect(card(page, polled).locator("tbody tr")).to_have_count(12)
    told = add_request(server.database_url, session, "another report", response="Forty-three.")
    expect_status(page, told, "done")
    page.reload()
    state_is(page, "polling", "poll")
    expect(heading).to_have_text("Spring review")
    expect(page.locator(".request")).to_have_count(6)
    expect(good).to_have_attribute("aria-pressed", "true")
    assert visitor.context.cookies()[0]["value"] == cookie["value"]
    page.get_by_label("Updates by").select_option("auto")
    state_is(page, "live", "stream")

    # And away with it all.
    page.locator("#delete-session").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(heading).to_have_text("Welcome")
    expect(page.locator(".request")).to_have_count(0)
    assert [answer for answer in answers if answer[-3:] >= "400"] == []
    assert sql(server.database_url, "SELECT FROM request") == sql(server.database_url, "SELECT FROM session") == []


def test_two_tabs_show_the_same(server: Server, visit: Visit) -> None:
    visitor = visit(server)
    one = visitor.open()
    add_session(one, "Shared")
    other = visitor.open(one.url.removeprefix(server.url + "/"))
    request = ask(one, "sales_by_month")
    expect_status(other, request, "pending")
    change_status(server, request, "in_progress")
    change_status(server, request, "done", response="The same for all.")
    for page in (one, other):
        expect_status(page, request, "done")
        expect(page.locator(".plain")).to_have_text("The same for all.")
    visitor.forgive("404")
    one.locator("#delete-session").click()
    one.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(one.get_by_role("heading", level=1)).to_have_text("Welcome")
    expect(one.locator("#notice")).to_be_hidden()
    expect(other.locator("#notice-words")).to_contain_text("This session was deleted")
    expect(other.get_by_role("heading", level=1)).to_have_text("Welcome")


def test_a_killed_server_is_missed_and_found_again(start_server: StartServer, visit: Visit) -> None:
    server = start_server()
    visitor = visit(server)
    visitor.forgive("Failed to load resource: (net::ERR_|.* 503)")
    page = visitor.open()
    session = add_session(page)
    request = ask(page, "sales_by_month")
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    state_is(page, "reconnecting")
    expect(page.locator("#connection-note-words")).to_contain_text("The connection was lost")
    change_status(server, request, "in_progress")
    change_status(server, request, "done", response="Written while nobody listened.")
    late = add_request(server.database_url, session, "a report", response="New.")
    start_server(port=int(server.url.rpartition(":")[2]))
    state_is(page, "live", "stream")
    expect(page.locator("#connection-note")).to_be_hidden()
    for each in (request, late):
        expect_status(page, each, "done")
    expect(card(page, request).locator(".plain")).to_have_text("Written while nobody listened.")


def test_a_question_is_asked_with_the_keyboard_alone(server: Server, visit: Visit) -> None:
    page = visit(server).open()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the questions")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    page.keyboard.type("Top")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Year", exact=True)).to_be_focused()
    page.keyboard.type("2022")
    page.keyboard.press("Enter")
    expect(page.locator(".request .text")).to_have_text("top_customers year=2022 count=20")
    request = page.locator(".request").get_attribute("data-request-id") or ""
    # Deleting by keyboard, too; the focus stays on the page.
    remove = card(page, request).get_by_role("button", name="Delete")
    for _ in range(30):
        if remove.evaluate("node => node === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".request")).to_have_count(0)
    expect(page.get_by_label("Question", exact=True)).to_be_focused()


WIDE_TABLE = json.dumps(
    {
        "columns": [{"name": f"a_long_name_for_column_{n}", "type": "text"} for n in range(12)],
        "rows": [["some words in a cell"] * 12] * 3,
    }
)


def test_a_phone_need_not_scroll_sideways(server: Server, visit: Visit) -> None:
    page = visit(server, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).open()

    def fits() -> None:
        too_wide = (
            "[...document.querySelectorAll('body *')]"
            ".filter((node) => node.getBoundingClientRect().right > innerWidth + 1)"
            ".filter((node) => !node.closest('.table-scroll, .visually-hidden')).map((node) => node.outerHTML)"
        )
        for width in (320, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate(too_wide) == []
            assert page.evaluate("document.documentElement.scrollWidth") == width

    fits()
    session = add_session(page, "A long name, as those have who keep minutes of everything")
    words = "https://example.org/" + "a-very-long-address-" * 12
    for response in (WIDE_TABLE, words):
        done = add_request(server.database_url, session, words, response=response)
        expect_status(page, done, "done")
        expect(card(page, done).locator(".result")).to_be_visible()
    failed = add_request(server.database_url, session, words, status="error", error=words)
    expect(card(page, failed).locator(".failure")).to_be_visible()
    add_request(server.database_url, session, words, status="in_progress")
    expect(page.locator(".progress")).to_be_visible()
    fits()
    page.locator("#delete-session").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    fits()


CONTRASTS = """
() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
  const ground = (node) => {
    if (!node) return [255, 255, 255, 1];
    const own = colour(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own : over(own, ground(node.parentElement));
  };
  const luminance = (rgb) => rgb.slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4))
    .reduce((sum, value, at) => sum + value * [.2126, .7152, .0722][at], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const node = walker.currentNode.parentElement;
    if (!text || !node.checkVisibility() || node.closest(".visually-hidden, .skip-link, script, noscript")) continue;
    const style = getComputedStyle(node);
    const back = ground(node);
    const front = over(colour(node.closest("svg") ? style.fill : style.color), back);
    const [low, high] = [luminance(front), luminance(back)].sort((a, b) => a - b);
    found.push({ text: text.slice(0, 40), ratio: (high + .05) / (low + .05) });
  }
  return found;
}
"""


def test_every_text_can_be_read(server: Server, visit: Visit) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text, whatever its size here, on light and on dark."""
    page = visit(server, reduced_motion="reduce").open()
    session = add_session(page)
    table = {"columns": [{"name": "month"}, {"name": "sales"}], "rows": [["2025-01", 7], ["2025-02", 9], [None, 3]]}
    shown = [
        add_request(server.database_url, session, "a table", response=json.dumps(table)),
        add_request(server.database_url, session, "words", response="Words."),
        add_request(server.database_url, session, "a failure", status="error", error="It failed."),
    ]
    for request, seen in zip(shown, (".bars", ".plain", ".failure"), strict=True):
        expect_status(page, request, "done" if seen != ".failure" else "error")
        if not card(page, request).locator(".body").is_visible():
            card(page, request).get_by_role("button", name="Show").click()
        expect(card(page, request).locator(seen)).to_be_visible()
    card(page, shown[0]).get_by_role("button", name="Good answer").click()
    for status in ("pending", "in_progress"):
        expect_status(page, add_request(server.database_url, session, status, status=status), status)
    page.mouse.move(0, 0)

    schemes: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")

    def check(*expected: str) -> None:
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate(CONTRASTS)
            assert {*expected} <= {each["text"] for each in found}
            assert [each for each in found if each["ratio"] < 4.5] == []

    check("Live", "Waiting", "Running", "Done", "Failed", "It failed.", "Words.", "Session 1", "Ask", "Month", "9")
    # The words of every state of the connection, on their own grounds.
    for state in ("live", "catching-up", "reconnecting", "polling", "offline"):
        page.evaluate(
            "state => { for (const id of ['connection-state', 'connection-note']) {"
            " document.getElementById(id).dataset.state = state; document.getElementById(id).hidden = false } "
            "document.getElementById('connection-note-words').textContent = 'A note.' }",
            state,
        )
        check("A note.", "Try now")
    page.locator("#delete-session").click()
    check("Keep it", "Delete", "Delete “Session 1”?")


def test_the_page_can_be_used_without_seeing_it(server: Server, visit: Visit) -> None:
    page = visit(server).open()
    add_session(page)
    for landmark in ("banner", "main", "navigation"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    request = ask(page, "sales_by_month")
    change_status(server, request, "in_progress")
    change_status(server, request, "done", response=WIDE_TABLE)
    expect(card(page, request).locator("table")).to_be_visible()

    # The end of what was asked is announced, once.
    assert page.locator("#announcer").get_attribute("aria-live") == "polite"
    page.wait_for_function("notes.announced.includes('Sales by month: Done')")
    assert page.evaluate("notes.announced.filter((words) => words.startsWith('Sales'))") == ["Sales by month: Done"]

    # Whatever can be used has a name.
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    usable = {
        "button",
        "link",
        "textbox",
        "combobox",
        "checkbox",
        "spinbutton",
        "region",
        "navigation",
        "form",
        "image",
    }
    nodes = [node for node in tree["nodes"] if not node["ignored"] and node.get("role", {}).get("value") in usable]
    assert len(nodes) > 10
    assert [node["role"] for node in nodes if not node.get("name", {}).get("value")] == []

    # Whoever walks with the keyboard sees where they are.
    reached: list[str] = []
    while reached.count("skip-link") < 2:
        page.keyboard.press("Tab")
        seen = page.evaluate(
            "() => { const node = document.activeElement, style = getComputedStyle(node);"
            " return [node.id || node.className || node.tagName, style.outlineStyle, parseFloat(style.outlineWidth)] }"
        )
        reached.append(seen[0])
        assert len(reached) < 100
        assert seen[0] == "BODY" or (seen[1] == "solid" and seen[2] >= 2), seen
    assert {"transport", "new-session", "rename-session", "question", "ask", "table-scroll"} <= {*reached}

    # A dialog keeps the focus, and gives it back.
    opener = page.get_by_role("button", name="Rename")
    opener.press("Enter")
    expect(page.get_by_role("dialog", name="Rename session").get_by_role("textbox", name="Name")).to_be_focused()
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(opener).to_be_focused()


def test_the_security_policy_is_strict_and_kept(server: Server, visit: Visit) -> None:
    """Every test fails on a violation, since browsers report them to the console; here is one to prove it."""
    visitor = visit(server)
    page = visitor.open()
    response = page.request.get(server.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert visitor.complaints == []
    with page.expect_console_message(lambda said: "Content Security Policy" in said.text):
        page.evaluate("document.head.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert page.evaluate("window.ran") is None
    assert visitor.unexpected() != []
    visitor.forgive("Content Security Policy")


def test_nothing_of_one_session_is_shown_in_another(server: Server, visit: Visit) -> None:
    page = visit(server).open()
    sessions = {name: add_session(page, f"only {name}") for name in ("a", "b")}
    for name, session in sessions.items():
        for number in range(3):
            add_request(server.database_url, session, f"secret of {name} {number}", response=f"secret of {name}")
    page.reload()
    expect(page.locator(".plain")).to_have_text("secret of b")

    # Faster than any answer comes.
    page.evaluate(
        "async () => { for (let turn = 0; turn < 20; turn += 1) {"
        " document.querySelectorAll('#session-list a')[turn % 2].click();"
        " await new Promise((resume) => setTimeout(resume, turn * 7)) } }"
    )
    # A request of a whose acceptance, and answers of a that arrive only when b is open.
    held: list[Route] = []
    page.route("**/api/request/**", lambda route: held.append(route) if holding else route.continue_())
    holding = True
    page.get_by_role("link", name="only a").click()
    page.get_by_label("Question", exact=True).select_option("broken")
    with page.expect_request(lambda request: request.method == "POST"):
        page.get_by_role("button", name="Ask").click()
    page.get_by_role("link", name="only b").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("only b")
    holding = False
    with page.expect_response(lambda response: response.request.method == "POST"):
        for route in held:
            with suppress(Error):  # the page has let go of it
                route.continue_()
    expect(page.locator(".request")).to_have_count(3)
    expect(page.get_by_role("heading", level=1)).to_have_text("only b")
    assert page.evaluate("notes.mixed") == []
    page.get_by_role("link", name="only a").click()
    expect(page.locator(".request")).to_have_count(4)


def test_another_guest_sees_nothing(server: Server, visit: Visit) -> None:
    page = visit(server).open()
    session = add_session(page, "Mine")
    request = add_request(server.database_url, session, "my question", response="my answer")
    expect(card(page, request).locator(".plain")).to_have_text("my answer")
    stranger = visit(server)
    stranger.forgive("404")
    other = stranger.open(f"#session={session}")
    expect(other.locator("#notice-words")).to_have_text("The session in the address does not exist, or is not yours.")
    expect(other.get_by_role("heading", level=1)).to_have_text("Welcome")
    assert session_of(other) == ""
    assert not re.search("Mine|my question|my answer", other.content())
    for path in (f"session/{session}", f"session/{session}/requests", f"request/{session}/1", f"sse/{session}"):
        assert other.request.get(f"{server.url}/api/{path}").status == 404


HOSTILE = '<img src=x onerror="window.ran = 1"><script>window.ran = 1</script>javascript:alert(1)</p>'
HOSTILE_TABLE = json.dumps({"columns": [{"name": HOSTILE}, {"name": "number"}], "rows": [[HOSTILE, 1], ["b", 2]]})


def test_what_looks_like_markup_is_text(server: Server, visit: Visit) -> None:
    page = visit(server).open()
    session = add_session(page, HOSTILE)
    expected = {
        add_request(server.database_url, session, HOSTILE, response=HOSTILE): ".plain",
        add_request(
            server.database_url, session, HOSTILE, response=HOSTILE_TABLE
        ): "tbody tr:first-child td:first-child",
        add_request(server.database_url, session, HOSTILE, status="error", error=HOSTILE): ".failure",
    }
    for request, place in expected.items():
        card(page, request).wait_for()
        if not card(page, request).locator(".body").is_visible():
            card(page, request).get_by_role("button", name="Show").click()
        expect(card(page, request).locator(place)).to_contain_text(HOSTILE)
        expect(card(page, request).locator(".text")).to_have_text(HOSTILE)
        expect(card(page, request).locator("img, script")).to_have_count(0)
    page.locator("#delete-session").click()
    expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
    assert page.evaluate("window.ran") is None
