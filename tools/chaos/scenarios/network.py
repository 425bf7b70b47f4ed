"""Connections between any two processes are cut, refused, delayed and black-holed."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tools.chaos.proxy import Proxy
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

DELAY_SECONDS: Final = 0.2
DELAYED_SECONDS: Final = 2.0
REFUSED_SECONDS: Final = 2.0
BLACK_HOLE_SECONDS: Final = (5.0, 15.0)
"""The range includes times shorter and longer than a consumer's session (10 s) and a delivery's timeout (10 s)."""


def _hold(seconds: float) -> None:
    """Let the fault last so long under load. A fixed time is right here: the fault is defined by its length."""
    threading.Event().wait(seconds)


def trouble(ways: Sequence[tuple[str, str]], trial: Trial) -> None:
    """Cut connections twice, delay them for a while, refuse them for a while, and then black-hole them."""
    proxies = {"kafka": trial.deployment.kafka, "postgres": trial.deployment.postgres}
    hurt = [proxies[part][group] for group, part in ways]

    def every(do: Callable[[Proxy], None]) -> None:
        for proxy in hurt:
            do(proxy)

    try:
        for _ in range(2):
            trial.let_flow(100)
            trial.say("all connections are reset")
            every(Proxy.cut)
        trial.let_flow(100)
        trial.say(f"each packet takes {DELAY_SECONDS} s longer")
        every(lambda proxy: proxy.delay(DELAY_SECONDS))
        _hold(DELAYED_SECONDS)
        trial.say("connections are refused")
        every(Proxy.refuse)
        _hold(REFUSED_SECONDS)
        every(Proxy.pass_through)
        trial.let_flow(100)
        seconds = trial.random.uniform(*BLACK_HOLE_SECONDS)
        trial.say(f"packets vanish for {seconds:.0f} s")
        every(Proxy.black_hole)
        _hold(seconds)
    finally:
        every(Proxy.pass_through)


_WAYS: Final = (
    ("workers-postgres", "workers and Postgres", [("posting", "postgres")]),
    ("workers-kafka", "workers and Kafka", [("posting", "kafka")]),
    ("api-kafka", "the API and Kafka", [("api", "kafka")]),
    (
        "elsewhere",
        "the API and Postgres, and between relay, reconciliation, audit and both,",
        [("api", "postgres"), ("proving", "kafka"), ("proving", "postgres")],
    ),
)

SCENARIOS: Final = tuple(
    Scenario(
        f"network-{name}",
        f"Connections between {people} may be cut, slow, refused or silent.",
        partial(trouble, ways),
    )
    for name, people, ways in _WAYS
)
