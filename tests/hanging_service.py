"""`python -m tests.hanging_service NAME WHERE`: a service that gets stuck as soon as it has work.

WHERE says what gets stuck:

- `handler`: its thread waits for ever;
- `loop`: the event loop waits for ever;
- `fetch`: the engine fetches nothing more;
- `look`: the same, and the thread that asks Kafka for the ends of the partitions waits for ever;
- `group`: the engine has left its group and does not join again;
- `client`: one client of Kafka has no answers any more, though Kafka answers everyone else;
- `interpreter`: a call of C that holds the interpreter's lock never comes back, so no thread of Python runs again.
"""

import asyncio
import ctypes
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.consumer.fetcher import Fetcher

from cli.commands.services import run_posting, run_relay
from cli.context import find_running_ledger
from cli.observed import observe
from domain.topics import Topics
from runtime.faults import cause_no_fault
from streams.engine import FencedApp
from streams.fenced import _Runner
from streams.lag import LagWatch
from streams.posting.source import KafkaAway, TopicIdAnswer, TopicLook


def wait_for_ever(_: object = None) -> bool:
    """Wait for ever, like a call that never returns."""
    return threading.Event().wait()


def until_work_is_done(ask: Callable[..., Awaitable[bool]]) -> Callable[..., Awaitable[bool]]:
    """Ask the broker until something is processed. Later requests never get an answer."""
    handle, is_done = _Runner._try_once, threading.Event()

    def handle_and_tell(runner: _Runner, fetch: Any) -> None:
        handle(runner, fetch)
        is_done.set()

    async def ask_or_wait(*arguments: Any) -> bool:
        if is_done.is_set():
            await asyncio.Event().wait()
        return await ask(*arguments)

    _Runner._try_once = handle_and_tell  # type: ignore[method-assign]
    return ask_or_wait


def let_answer_once(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Ask for the ends once. The second call never returns."""
    answered: list[Any] = []

    def ask_or_wait(*arguments: Any) -> Any:
        if answered:
            wait_for_ever()
        answered.append(ask(*arguments))
        return answered[0]

    return ask_or_wait


def leave_the_group(app: FencedApp, _: object) -> int:
    """Take the partitions away from the engine and keep it out of the group, as after a rebalance that went wrong."""
    consumer = app.consumer._thread._consumer
    if not consumer._coordinator._closing.done():
        consumer._coordinator._closing.set_result(None)
        consumer._subscription.unsubscribe()
    return 0


def refuse_to_answer(look: TopicLook) -> TopicIdAnswer:
    """Fail like a client whose connections are lost and never made again."""
    raise KafkaAway(f"Kafka does not describe the topic {look._topic}: this client is stuck.")


def hold_the_interpreter(_: str) -> None:
    """Call C through PyDLL, which keeps the interpreter lock; CDLL would release it."""
    ctypes.PyDLL(None).pause()


def main() -> None:
    """Run the service."""
    name, where = sys.argv[1:]
    ledger = find_running_ledger()
    faults = {"handler": wait_for_ever, "interpreter": hold_the_interpreter}
    if where in ("fetch", "look"):
        Fetcher._proc_fetch_request = until_work_is_done(Fetcher._proc_fetch_request)
    if where == "look":
        LagWatch._ask = let_answer_once(LagWatch._ask)  # type: ignore[method-assign]
    if where == "group":
        FencedApp.end_of = leave_the_group  # type: ignore[method-assign]
    if where == "client":
        TopicLook.ask = refuse_to_answer  # type: ignore[method-assign]
    if where == "loop":
        # A timer of the loop reads this property. Hang only once the worker has lanes, as the worker is watched only
        # from then on.
        _Runner.busy = property(lambda runner: bool(runner.expected) and wait_for_ever())  # type: ignore[assignment]
    run = {"posting": run_posting, "relay": run_relay}[name]
    with observe(name, ledger):
        run(ledger, Topics(ledger.settings.topic_prefix), faults.get(where, cause_no_fault))


if __name__ == "__main__":
    main()
