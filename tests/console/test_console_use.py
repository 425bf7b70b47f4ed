"""The console for everybody and in all conditions: axe, keyboard only, a phone, a stream that breaks off."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from db.access import Scope, revoke_key
from db.connections import connect
from domain.topics import Topics
from runtime.settings import Settings
from tests.api_bench import running_api, top_up
from tests.console.console_bench import VIEWS, ConsoleBench, go, live
from tests.integration.test_audit import ALTERATIONS
from tests.integration.test_reconciliation import busy

PHONE = {"width": 360, "height": 740}
STOP_SECONDS_MAX = 5


@pytest.fixture(scope="module", autouse=True)
def filled(console: ConsoleBench) -> str:
    """Fill the ledger with data for every view, including a break; return the id of one of its intents."""
    busy(console.ledger)
    console.prove()
    console.ledger.tamper(ALTERATIONS["outcome detail"][0])
    console.audit.chores.sweep_all()
    row = console.ledger.rows("SELECT intent_id FROM ledger.journal WHERE lane = 1 AND seq = 1")[0]
    return str(row["intent_id"])


def every_view(page: Page, intent_id: str) -> Iterator[str]:
    """Yield the name of each view when the view shows its data."""
    ready = {
        "overview": "#lanes tbody tr",
        "follow": "#content form",
        "accounts": "#balances tr",
        "statement": "#lines tr",
        "trial balance": "section[data-currency] tbody tr",
        "breaks": "article[data-break]",
        "intent": "[data-step=proof][data-state=ok]",
    }
    for name, view in {**VIEWS, "intent": f"follow/{intent_id}"}.items():
        go(page, view)
        expect(page.locator(ready[name]).first).to_be_visible()
        yield name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(console: ConsoleBench, filled: str, scheme: Any) -> None:
    axe = Axe()
    found: dict[str, Any] = {}

    def look(page: Page, name: str) -> None:
        violations = axe.run(page).response["violations"]
        if violations:
            found[name] = [
                (item["id"], item["help"], [node["target"] for node in item["nodes"]][:3]) for item in violations
            ]

    with console.page(color_scheme=scheme) as page:
        for name in every_view(page, filled):
            look(page, name)
        go(page, "trial-balance")
        page.get_by_role("button", name="liability").click()
        expect(page.locator("tr[data-account]").first).to_be_visible()
        look(page, "trial balance, opened")
        page.get_by_role("button", name="Keyboard and key").click()
        look(page, "dialog")
        page.get_by_role("button", name="Forget the key").click()
        expect(page.get_by_label("API key")).to_be_visible()
        look(page, "gate")
    assert found == {}


def test_nothing_scrolls_sideways_on_a_phone(console: ConsoleBench, filled: str) -> None:
    with console.page(viewport=PHONE, has_touch=True, is_mobile=True) as page:
        for name in every_view(page, filled):
            width = page.evaluate("document.scrollingElement.scrollWidth")
            assert (name, width) == (name, PHONE["width"])
        box = page.get_by_role("link", name="Breaks").bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= PHONE["width"]


def test_the_keyboard_alone_is_enough(console: ConsoleBench, filled: str) -> None:
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"
    with console.page() as page:
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate(focused) == "content"
        for number, title in enumerate(("Overview", "Follow", "Accounts", "Trial balance", "Breaks", "Schedules"), 1):
            page.keyboard.press(str(number))
            expect(page).to_have_title(re.compile(title))
            expect(page.locator("nav [aria-current=page]")).to_contain_text(title)
            assert page.evaluate(focused) == "content"
        page.keyboard.press("/")
        assert page.evaluate(focused) == "search"
        page.keyboard.type("external:bank")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="external:bank")).to_be_visible()
        expect(page.locator("#lines tr").first).to_be_visible()
        reached = walk(page, page.get_by_role("link", name="transfer").first)
        assert {"Overview", "Accounts", "search", "theme", "help", "By booking date"} <= reached
        page.keyboard.press("Enter")
        expect(page.locator("[data-step=http]")).to_be_visible()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()


def walk(page: Page, target: Any) -> set[str]:
    """Press Tab from the top until the target has the focus. Return what was met; each had a visible focus."""
    page.evaluate("document.activeElement.blur(), document.getSelection().collapse(document.body, 0)")
    page.locator("#skip").focus()
    met = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        met.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        seen = page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert seen, page.evaluate("document.activeElement.outerHTML")
        if target.evaluate("node => node === document.activeElement"):
            return met
    raise AssertionError(f"the keyboard does not reach it, only {met}")


def test_single_keys_can_be_turned_off(console: ConsoleBench) -> None:
    with console.page() as page:
        page.keyboard.press("?")
        page.get_by_label("Single keys do this").uncheck()
        page.get_by_role("button", name="Done").click()
        page.keyboard.press("5")
        expect(page).to_have_title(re.compile("Overview"))


def test_the_switch_goes_before_the_system(console: ConsoleBench) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with console.page(color_scheme="light") as page:
        by_system = page.evaluate(ground)
        switch = page.locator("#theme")
        switch.click()
        expect(switch).to_have_attribute("aria-label", "Theme: light")
        assert page.evaluate(ground) == by_system
        switch.click()
        expect(switch).to_have_attribute("aria-label", "Theme: dark")
        assert page.evaluate(ground) != by_system
        page.reload()
        live(page)
        expect(switch).to_have_attribute("aria-label", "Theme: dark")


def test_the_page_may_do_no_more_than_it_must(console: ConsoleBench) -> None:
    paths = ("/console", "/console/assets/main.js", "/console/assets/console.css", "/console/assets/icon.svg")
    for path in paths:
        answer = httpx.get(f"{console.api.url}{path}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    text = httpx.get(f"{console.api.url}/console").text
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*src=)|\son\w+=", text)
    assert httpx.get(f"{console.api.url}/console/assets/../routes.py").status_code == 404


def test_a_key_that_is_revoked_ends_the_stream(console: ConsoleBench) -> None:
    key = console.api.new_key(scopes=(Scope.JOURNAL_READ,))
    with console.browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{console.api.url}/console#key={key}")
        live(page)
        with connect(console.api.dsn, "ledgerline_operator", autocommit=True) as connection:
            revoke_key(connection, key.split("_")[1])
        expect(page.locator("#connection")).to_have_attribute("data-state", "refused")
        expect(page.locator(".gate [role=alert]")).to_contain_text("Send a valid key")


def test_a_stream_that_breaks_off_comes_back_by_itself(console: ConsoleBench) -> None:
    """A second API of the same ledger is stopped while the page is open, and started again on the same port."""
    settings: Settings = console.settings
    with running_api(settings) as second:
        port = httpx.URL(second.url).port or 0
        page = console.browser.new_context().new_page()
        page.goto(f"{second.url}/console#key={console.key}")
        live(page)
        received = page.locator("#lanes tfoot td").first
        expect(received).to_have_text("16")
    connection = page.locator("#connection")
    expect(connection).to_have_attribute("data-state", "lost")
    expect(connection).to_contain_text("Disconnected, again in")
    retry = page.get_by_role("button", name="Retry now")
    retry.focus()
    with page.expect_request("**/v1/console/events"):
        page.keyboard.press("Enter")
    expect(received).to_have_text("16")  # the last known figure stays
    console.ledger.send(console.ledger.transfer("meanwhile", "external:bank", "users:1:wallet", 5))
    with running_api(settings, port=port):
        live(page)
        expect(received).to_have_text("17")
        expect(retry).to_be_hidden()
        page.context.close()


def test_what_is_away_is_named_and_the_rest_goes_on(console: ConsoleBench) -> None:
    """The API cannot reach Kafka."""
    settings = console.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    with running_api(settings, wait_ready=False) as second, console.browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{second.url}/console#key={console.key}")
        live(page)
        expect(page.locator("#notice")).to_contain_text("Kafka does not report the ends of the topics")
        expect(page.get_by_role("heading", name="The books do not hold")).to_be_visible()
        expect(page.locator("[data-claim=breaks]")).to_contain_text("stored open, by audit")
        expect(page.locator("#lanes tfoot td").first).to_have_text("–")
        assert Topics(settings.topic_prefix).intents


ODD_VIEWS = [
    "__proto__",
    "constructor",
    "toString/x",
    "hasOwnProperty?a=b",
    "nowhere",
    "%E0%A4%A",
    "key=llk_x y",
    "Overview",
]


def test_what_is_no_page_is_not_found(console: ConsoleBench) -> None:
    with console.page() as page:
        for view in ODD_VIEWS:
            page.evaluate("hash => { location.hash = hash }", f"#/{view}")
            expect(page.get_by_role("heading", name="Page not found")).to_be_visible()
            expect(page).to_have_title("Page not found · Ledgerline")
            assert page.locator("#views [aria-current]").count() == 0
            page.get_by_role("link", name="Go to the overview").click()
            expect(page.locator("#lanes")).to_be_visible()


def test_what_was_stored_under_an_odd_name_is_no_theme(console: ConsoleBench) -> None:
    with console.page() as page:
        page.evaluate("localStorage.setItem('ledgerline.theme', 'constructor')")
        page.reload()
        live(page)
        expect(page.locator("#theme")).to_have_attribute("aria-label", "Theme: as the system")


@pytest.mark.parametrize("arrives", ["by a change of the address", "by a load"])
def test_a_link_with_another_key_asks_before_it_replaces_the_tabs(console: ConsoleBench, arrives: str) -> None:
    other = console.api.new_key(scopes=(Scope.JOURNAL_READ,))
    stored = "sessionStorage.getItem('ledgerline.key')"

    def open_link(page: Page) -> None:
        if arrives == "by a load":
            page.goto("about:blank")
            page.goto(f"{console.api.url}/console#key={other}")
        else:
            page.evaluate("hash => { location.hash = hash }", f"#key={other}")
        expect(page.get_by_role("heading", name="Use another key?")).to_be_visible()
        assert other not in page.url
        assert page.evaluate(stored) == console.key

    with console.page() as page:
        open_link(page)
        shown = page.locator("#content").inner_text()
        assert all(key.split("_")[1] in shown for key in (other, console.key)), "both are named"
        assert all(key.split("_", 2)[2] not in shown for key in (other, console.key)), "and no secret is shown"
        page.get_by_role("button", name="Keep this tab's key").click()
        expect(page.locator("#lanes")).to_be_visible()
        assert page.evaluate(stored) == console.key

        open_link(page)
        page.get_by_role("button", name="Use the link's key").click()
        live(page)
        assert page.evaluate(stored) == other

        page.evaluate("hash => { location.hash = hash }", f"#key={other}")  # the tab's own key: no question is asked
        expect(page.locator("#lanes")).to_be_visible()
        assert other not in page.url


def test_nothing_from_outside_becomes_an_element(console: ConsoleBench) -> None:
    hostile = "<img src=x onerror=alert(1)><b>bold</b>"
    intent_id = console.post("hostile", top_up(9, 700, reference=hostile, metadata={"note": hostile}))
    console.prove()
    with console.page(f"follow/{intent_id}") as page:
        expect(page.get_by_text(hostile).first).to_be_visible()
        go(page, "accounts/users:9:wallet?currency=EUR")
        expect(page.locator("#lines").get_by_text(hostile)).to_be_visible()
        image = hostile.partition("<b>")[0]
        page.evaluate("hash => { location.hash = hash }", f"#/accounts/{image}")
        expect(page.get_by_role("heading", name=image)).to_be_visible()
        assert page.locator("#content img, #content b").count() == 0


def test_the_documents_page_works_within_its_policy_and_keeps_no_key(console: ConsoleBench) -> None:
    with console.browser.new_context() as context:
        page = context.new_page()
        heard: list[str] = []
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.goto(f"{console.api.url}/console")
        page.evaluate("localStorage.setItem('authorized', 'a key of an earlier release')")
        page.goto(f"{console.api.url}/docs")
        expect(page.get_by_text("A payments ledger: intents in")).to_be_visible()
        page.get_by_role("button", name="Authorize").click()
        page.get_by_label("auth-bearer-value").fill(console.key)
        page.get_by_role("button", name="Apply credentials").click()
        page.get_by_role("button", name="Close").click()
        page.locator("#operations-accounts-list_accounts_v1_accounts_get").get_by_role("button").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage]) + document.cookie")
        assert console.key not in kept
        assert "authorized" not in kept
        assert heard == []
