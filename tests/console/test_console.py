"""The console in a real Chromium shows live what the API says. The tests run in order, as the ledger fills up."""

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.api_bench import top_up, transfer
from tests.console.console_bench import ConsoleBench, figure, go, live
from tests.integration.test_audit import ALTERATIONS
from tests.integration.test_reconciliation import busy


def test_without_a_key_it_asks_for_one_and_with_a_wrong_one_says_so(console: ConsoleBench) -> None:
    with console.browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{console.api.url}/console")
        expect(page.get_by_role("heading", name="Ledgerline console")).to_be_visible()
        expect(page.locator("#connection")).to_have_attribute("data-state", "off")
        page.get_by_label("API key").fill("llk_wrong")
        page.get_by_label("API key").press("Enter")
        expect(page.locator(".gate [role=alert]")).to_contain_text("Send a valid key")
        page.get_by_label("API key").fill(console.key)
        page.get_by_role("button", name="Open").click()
        live(page)
        page.reload()  # the tab keeps the key
        live(page)


def test_the_key_in_the_address_leaves_it_at_once(console: ConsoleBench) -> None:
    with console.page() as page:
        assert console.key not in page.url
        assert page.evaluate("history.length") <= 2
        assert page.evaluate("sessionStorage.getItem('ledgerline.key')") == console.key
        assert page.evaluate("localStorage.length") == 0


def test_an_empty_ledger_says_so(console: ConsoleBench) -> None:
    with console.page() as page:
        expect(page.get_by_role("heading", name="The books hold")).to_be_visible()
        expect(page.locator("[data-claim=symmetry]")).to_contain_text("Nothing is posted yet")
        expect(page.locator("[data-claim=checkpoint]")).to_contain_text("None is signed yet")
        go(page, "accounts")
        expect(page.get_by_text("No account is open here")).to_be_visible()
        go(page, "trial-balance")
        expect(page.get_by_text("Nothing is posted yet")).to_be_visible()
        go(page, "breaks")
        expect(page.get_by_text("have found no difference")).to_be_visible()


def lane_figures(page: Page) -> dict[str, dict[str, str]]:
    """Return lane -> its figures as the table shows them."""
    return {
        row.get_attribute("data-lane") or "": {
            cell.get_attribute("data-figure") or "": cell.inner_text() for cell in row.locator("td").all()
        }
        for row in page.locator("#lanes tbody tr").all()
    }


def test_the_page_follows_each_stage_without_a_reload(console: ConsoleBench) -> None:
    totals = {name: f"#lanes tfoot td:nth-of-type({place})" for place, name in enumerate(STAGES, 1)}

    def shows(received: int, *behind: int) -> None:
        for name, number in zip(STAGES, (received, *behind), strict=True):
            expect(page.locator(totals[name])).to_have_text(str(number))

    with console.page() as page:
        loads: list[str] = []
        page.on("framenavigated", lambda frame: loads.append(frame.url))
        for number in range(3):
            console.post(f"stage-{number}", top_up(number, 1_000))
        shows(3, 3, 0, 0, 0)
        console.ledger.post()
        shows(3, 0, 3, 3, 3)
        console.ledger.relay_all()
        shows(3, 0, 0, 3, 3)
        console.reconcile()
        shows(3, 0, 0, 0, 3)
        expect(page.locator("[data-currency=EUR] [data-sum=debits]")).to_have_text("30.00")
        console.prove()
        shows(3, 0, 0, 0, 0)
        expect(page.locator("[data-claim=checkpoint]")).to_contain_text("Number 0")
        expect(page.locator("[data-tile='Accepted to posted'] .figure")).not_to_contain_text("–")
        assert loads == []


STAGES = ("received", "unposted", "unrelayed", "unreconciled", "unaudited")


def test_the_figures_are_those_of_the_api(console: ConsoleBench) -> None:
    busy(console.ledger)
    console.prove()
    with console.page() as page:
        expect(page.locator("#lanes tfoot td").first).to_have_text("19")
        expect(page.locator("[data-fate=received] b")).to_have_text("19")
        fates = {
            name: figure(page.locator(f"[data-fate='{name}'] b").inner_text())
            for name in ("posted", "rejected", "duplicate", "idempotency conflict", "quarantined", "in flight")
        }
        rows = console.ledger.rows("SELECT outcome, count(*) AS number FROM ledger.journal GROUP BY outcome")
        counted = {row["outcome"].replace("_", " "): row["number"] for row in rows}
        assert fates == {**counted, "in flight": 0}
        (balance,) = console.get("/v1/reports/trial-balance")["items"]
        for side in ("debits", "credits"):
            expect(page.locator(f"[data-currency=EUR] [data-sum={side}]")).to_have_text(balance[side])
        lanes = console.ledger.rows("SELECT lane, next_seq FROM ledger.lane ORDER BY lane")
        shown = lane_figures(page)
        assert {lane: figure(figures["received"]) for lane, figures in shown.items()} == {
            str(row["lane"]): row["next_seq"] for row in lanes
        }


def test_the_trial_balance_is_that_of_the_api_down_to_its_accounts(console: ConsoleBench) -> None:
    (item,) = console.get("/v1/reports/trial-balance")["items"]
    with console.page("trial-balance") as page:
        section = page.locator("section[data-currency=EUR]")
        expect(section).to_contain_text("both sides equal")
        for side in ("debits", "credits", "debit_balances", "credit_balances"):
            expect(section.locator(f"tfoot [data-side={side}]")).to_have_text(item[side])
        (liability,) = [row for row in item["classes"] if row["account_class"] == "liability"]
        section.get_by_role("button", name="liability").click()
        expect(section.locator("tr[data-account]")).to_have_count(liability["accounts"])
        wallet = section.locator("tr[data-account='users:3:wallet']")
        expect(wallet.locator("[data-side=credit_balances]")).to_have_text("10.03")
        section.get_by_role("button", name="liability").click()
        expect(section.locator("tr[data-account]")).to_have_count(0)


def test_a_statement_has_the_running_balance_of_the_api(console: ConsoleBench) -> None:
    for number in range(60):
        console.post(f"many-{number}", top_up(7, 10 + number, value_time=f"2026-02-{1 + number % 28:02}T12:00:00Z"))
    console.prove()
    whole = console.get("/v1/accounts/users:7:wallet/statement?currency=EUR&limit=1000")
    with console.page("accounts") as page:
        page.get_by_label("Accounts that begin with").fill("users:7")
        page.get_by_label("Accounts that begin with").press("Enter")
        page.get_by_role("link", name="users:7:wallet").click()
        expect(page.locator("#lines tr")).to_have_count(50)
        page.get_by_role("button", name="Show more").click()
        expect(page.locator("#lines tr")).to_have_count(len(whole["items"]))
        assert balances(page) == [line["balance_minor"] for line in whole["items"]]
        expect(page.locator(".closing .figure")).to_have_text(f"{whole['closing_balance']} EUR")
        page.get_by_role("button", name="By value date").click()
        by_value = console.get("/v1/accounts/users:7:wallet/statement?currency=EUR&by=value&limit=50")
        first = by_value["items"][0]
        expect(page.locator("#lines tr").first).to_contain_text((first["value_time"] or first["booked_time"])[:10])
        expect(page.locator("#lines tr")).to_have_count(50)
        assert balances(page) == [line["balance_minor"] for line in by_value["items"]]
        page.get_by_label("From").fill("2026-02-10")
        page.get_by_label("To").fill("2026-02-11")
        expected = console.get(
            "/v1/accounts/users:7:wallet/statement?currency=EUR&by=value&since=2026-02-10T00:00:00Z&until=2026-02-12T00:00:00Z"
        )["items"]
        assert expected
        expect(page.locator("#lines tr")).to_have_count(len(expected))
        assert balances(page) == [line["balance_minor"] for line in expected]


def balances(page: Page) -> list[int]:
    return [
        int(text)
        for text in page.locator("#lines [data-balance]").evaluate_all("all => all.map(one => one.dataset.balance)")
    ]


def test_an_intent_is_followed_from_http_to_its_proof_as_it_happens(console: ConsoleBench) -> None:
    with console.api.client(console.key) as client:
        answer = client.post(
            "/v1/intents",
            json=transfer("external:bank", "users:5:wallet", 4_200, reference="watch me"),
            headers={"Idempotency-Key": "followed"},
        )
        location = answer.headers["location"]
    with console.page() as page:
        page.keyboard.press("/")
        page.keyboard.type(location)
        page.keyboard.press("Enter")
        step = steps(page)
        expect(step("kafka")).to_have_attribute("data-state", "ok")
        expect(step("journal")).to_have_attribute("data-state", "wait")
        console.ledger.post()
        expect(step("journal")).to_have_attribute("data-state", "ok")
        expect(step("relay")).to_have_attribute("data-state", "wait")
        expect(step("proof")).to_have_attribute("data-state", "wait")
        console.prove()
        for name in ("http", "kafka", "journal", "relay", "reconciled", "audited", "checkpoint", "proof"):
            expect(step(name)).to_have_attribute("data-state", "ok")
        expect(step("proof").locator(".checks li[data-state=ok]")).to_have_count(7)
        receipt = console.get(answer.json()["intent_id"].join(["/v1/intents/", ""]))["receipt"]
        row = console.get(f"/v1/journal/{receipt['lane']}/{receipt['seq']}")
        expect(step("journal")).to_contain_text(row["hash"])
        expect(step("journal")).to_contain_text(row["previous_hash"])
        expect(step("journal")).to_contain_text("42.00")


def steps(page: Page) -> Any:
    return lambda name: page.locator(f"[data-step={name}]")


def test_an_intent_is_found_by_its_idempotency_key(console: ConsoleBench) -> None:
    with console.page("follow") as page:
        page.get_by_label("Intent id or idempotency key").fill("too-much")
        page.get_by_role("button", name="Follow").click()
        expect(steps(page)("journal")).to_contain_text("rejected: insufficient funds")
        expect(steps(page)("proof")).to_have_attribute("data-state", "ok")
        page.get_by_label("Intent id or idempotency key").fill("nobody-sent-this")
        page.get_by_role("button", name="Follow").click()
        expect(page.locator("#result")).to_contain_text("No intent with this id is settled")


def test_a_break_is_seen_when_it_opens_and_when_it_resolves(console: ConsoleBench) -> None:
    alter, restore, subject = ALTERATIONS["reference"]
    with console.page() as page:
        console.ledger.tamper(alter)
        console.audit.chores.sweep_all()
        expect(page.get_by_role("heading", name="The books do not hold")).to_be_visible()
        expect(page.locator("#breaks-badge")).to_have_text("1")
        expect(page.locator("[data-claim=chain] .mark").first).to_have_attribute("data-state", "bad")
        expect(page.locator("#announcement")).to_have_text("1 breaks are not resolved.")
        go(page, "breaks")
        story = page.locator("article[data-break]")
        expect(story).to_have_attribute("data-state", "open")
        expect(story).to_contain_text(subject)
        expect(story).to_contain_text("altered")
        console.ledger.tamper(restore)
        console.audit.chores.sweep_all()
        expect(story).to_have_attribute("data-state", "resolved")
        expect(story).to_contain_text("it is what was published")
        expect(page.locator("#breaks-badge")).to_be_hidden()
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("None is open.")).to_be_visible()


def test_a_tenant_sees_its_own_money_and_of_the_rest_numbers(console: ConsoleBench) -> None:
    key = console.api.new_key("other")
    with console.browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{console.api.url}/console#key={key}")
        live(page)
        expect(page.locator("[data-currency=EUR]")).to_have_count(1)  # an operator's key sees the sums of all tenants
        scopes = tuple(scope for scope in console.all_scopes if scope != "operations:read")
        page.goto("about:blank")
        page.goto(f"{console.api.url}/console#key={console.api.new_key('other', scopes)}")
        page.get_by_role("button", name="Use the link's key").click()
        live(page)
        expect(page.locator("#books")).to_contain_text("tenant other")
        expect(page.locator("[data-currency]")).to_have_count(0)
        expect(page.locator("#lanes tfoot td").first).not_to_have_text(re.compile("^(–|0)$"))
        go(page, "accounts")
        expect(page.get_by_text("No account is open here")).to_be_visible()
