"""One ledger, one API and one Chromium for each module of the console's tests.

Playwright's synchronous API keeps its own event loop in this thread while it runs. So it runs for one module at a time,
and that module has no coroutine tests. It ends before the tests of another module begin.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from ops.embedded.stack import Endpoints
from tests.api_bench import running_api
from tests.conftest import fresh_database, fresh_topics, settings_for
from tests.console.chromium import chromium
from tests.console.console_bench import SECONDS_MAX, ConsoleBench


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    expect.set_options(timeout=SECONDS_MAX * 1000)
    with sync_playwright() as playwright:
        # In containers, where tests run as root, Chromium cannot make its sandbox. It shows our own pages only.
        made = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def console(
    stack: Endpoints, template: str, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleBench]:
    """A ledger with its console, empty at first."""
    with fresh_database(stack, template) as database, fresh_topics(stack) as topics:
        settings = settings_for(stack, database, topics, tmp_path_factory.mktemp("console"))
        with running_api(settings) as api:
            made = ConsoleBench(settings, topics, api, browser)
            yield made
            made.close()


@pytest.fixture(autouse=True)
def nothing_to_complain_of(console: ConsoleBench) -> Iterator[None]:
    """No test may leave a page that failed, broke its own content security policy, or asked another host."""
    console.complaints.clear()
    yield
    assert console.complaints == []
