"""A ledger with its provers and its API, and a browser that shows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect

from db.access import Scope
from domain.intents import compute_intent_id
from domain.topics import Topics
from runtime.settings import Settings
from streams.proof.audit.service import ensure_key, wire_audit
from streams.proof.reconciliation.service import wire_reconciliation
from tests.api_bench import ApiBench, post
from tests.proving_bench import ProvingBench

SECONDS_MAX = 60
VIEWS = {
    "overview": "",
    "follow": "follow",
    "accounts": "accounts",
    "statement": "accounts/external:bank?currency=EUR",
    "trial balance": "trial-balance",
    "breaks": "breaks",
}


class ConsoleBench:
    """Drives the pipeline step by step, so that a test knows which figures the page must show."""

    def __init__(self, settings: Settings, topics: Topics, api: ApiBench, browser: Browser) -> None:
        self.settings = settings
        self.api = api
        self.browser = browser
        self.ledger = ProvingBench(settings, topics)
        quick = settings.model_copy(update={"audit_checkpoint_seconds": 0.001})
        ledger = self.ledger
        self.audit = wire_audit(ledger.kafka, ledger.dsn, ledger.registry, topics, ensure_key(quick), quick)
        self.reconciliation = wire_reconciliation(ledger.kafka, ledger.dsn, ledger.registry, topics, 0.0)
        self.key = api.new_key()
        self.all_scopes = tuple(Scope)
        self.complaints: list[str] = []
        """Errors on the browser's console, exceptions of pages, and requests to another host."""

    def close(self) -> None:
        """Close everything except the API and the browser."""
        self.audit.close()
        self.reconciliation.close()
        self.ledger.close()

    def post(self, key: str, body: dict[str, Any]) -> str:
        """Send an intent over HTTP; return its id. It is not posted yet."""
        with self.api.client(self.key) as client:
            assert post(client, key, body).status_code == 202
        return str(compute_intent_id("default", key))

    def prove(self) -> None:
        """Post, relay, reconcile, audit and sign everything."""
        self.ledger.post_and_relay()
        self.reconcile()
        self.ledger.feed(self.audit.auditor)
        self.audit.signer.sign_if_due()
        self.audit.signer.publish()

    def reconcile(self) -> None:
        """Let reconciliation read everything."""
        self.ledger.feed(self.reconciliation.reconciler)

    def get(self, path: str) -> Any:
        """Return the API's JSON answer."""
        with self.api.client(self.key) as client:
            return client.get(path).json()

    @contextmanager
    def page(self, view: str = "", *, wait_live: bool = True, **options: Any) -> Iterator[Page]:
        """Yield the console at a view, in its own browser context, with the key in the address."""
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        with self.browser.new_context(**options) as context:
            context.set_default_timeout(SECONDS_MAX * 1000)
            page = context.new_page()
            page.on("console", lambda message: self._hear(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: self.complaints.append(str(error)))
            page.on("request", lambda request: self._look_at(request.url))
            page.goto(f"{self.api.url}/console#key={self.key}")
            if wait_live:
                live(page)
            go(page, view)
            yield page

    def _hear(self, complaint: str) -> None:
        if "Failed to load resource" not in complaint:  # a status of 404 or 409 is an answer, and the page shows it
            self.complaints.append(complaint)

    def _look_at(self, url: str) -> None:
        if not url.startswith((self.api.url, "blob:")):
            self.complaints.append(f"asked for {url}")


def live(page: Page) -> None:
    """Wait until the page gets its live events."""
    expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=SECONDS_MAX * 1000)


def go(page: Page, view: str) -> None:
    """Change the view by its address, and wait until the page has loaded."""
    page.evaluate("hash => { location.hash = hash }", f"#/{view}")
    page.wait_for_function("hash => location.hash === hash", arg=f"#/{view}")
    page.wait_for_load_state("domcontentloaded")


def figure(text: str) -> int:
    """Return 12,345 as a number."""
    return int(text.replace(",", ""))
