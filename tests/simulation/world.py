"""A small world: two lanes of intents, workers, relays, a database and a broker. The real code runs in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from random import Random
from typing import Any, ClassVar, Final, cast

import structlog
from confluent_kafka import KafkaException
from faust.types import TP

from db.connections import TRANSIENT
from domain.errors import Outage
from domain.intents import Intent
from domain.outcomes import QuarantineReason
from domain.topics import Topics
from producers.relay import Relay, RelayEncoders
from producers.relay_core import RelayFenced, RelayOptions
from runtime.kafka import Kafka
from streams.decode import IntentDecoder, Undecodable
from streams.engine import Fetch, FetchedPart
from streams.fenced import AgentOptions, _Runner
from streams.metrics import AgentMetrics
from streams.posting.poster import Poster
from streams.posting.reading import IntentReader, Work
from streams.posting.signing import make_sign
from tests.posting_model import script
from tests.simulation.broker import HOLE, TOPIC, Broker, SimulatedProducer
from tests.simulation.database import GUARDS, Database, Process
from tests.simulation.judge import KEY, Judge
from tests.simulation.scheduler import Choice, Crashed, Drawn, Replayed, Scheduler, Task, Violation
from tests.simulation.stores import SimulatedPostingStore, SimulatedRelayStore, done

OPTIONS: Final = AgentOptions("simulated", Kafka("nowhere"), (TOPIC,), "group")
METRICS: Final = AgentMetrics("simulated")
BUFFERED_MAX: Final = 2


@dataclass(frozen=True)
class Parts:
    """The parts of a world. A mutation replaces a real part by another one."""

    poster: type[Poster] = Poster
    runner: type[_Runner] = _Runner
    relay: type[Relay] = Relay
    posting_store: type[SimulatedPostingStore] = SimulatedPostingStore
    producer: type[SimulatedProducer] = SimulatedProducer
    guards: frozenset[str] = GUARDS


@dataclass(frozen=True)
class Plan:
    """A run: the intents of the lanes, the processes, and the choices. The same plan always gives the same run."""

    lanes: tuple[tuple[str, ...], ...]
    """The intents of each lane, in the notation of posting_model.script.

    `?...` are bytes that are no intent. HOLE is an offset without a record.
    """
    workers: int
    relays: tuple[tuple[int, int], ...]
    """(instance, instances) of each relay. Two relays of the same instance have the same transactional id."""
    records_max: int = 9
    """The most records of a lane in one fetch."""
    choices: tuple[Choice, ...] = ()
    calm_step: int = 0
    """Faults can happen until this step, or until the last choice's step if that is later."""


@dataclass
class Result:
    """The result of a run."""

    plan: Plan
    violation: Violation | None
    steps: int
    story: list[str] = field(default_factory=list)
    fates: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------- the plan

_SPENDS: Final = ("users:1>external:b", "users:1>users:2", "users:2>external:b")


def drawn_plan(random: Random) -> Plan:
    """Return a random small plan: accounts near their floor, the same intents in several lanes, reversals."""
    funds = [f"fund{number} external:b>users:{number} {random.choice((6, 10))}" for number in (1, 2)]
    pool = list(funds)
    spends = range(random.randint(2, 5))
    pool += [f"spend{number} {random.choice(_SPENDS)} {random.choice((4, 6, 9))}" for number in spends]
    for number in range(random.choice((0, 1, 2, 3))):
        part = random.choice(("", "", " users:1>external:b 4"))
        pool.append(f"back{number} ~{random.choice(('fund1', 'spend0', 'spend0'))}{part}")
    random.shuffle(pool)
    again = random.choices(pool, k=random.randint(0, 3))
    if random.random() < 0.2:
        again.append(f"spend0 {random.choice(_SPENDS)} 1")
    again += [extra for extra in ("?", HOLE) if random.random() < 0.1]
    if random.random() < 0.08:
        again += ["most external:b>external:c max", "more external:b>external:c max"]
        again += ["over external:b>external:c max + external:b>external:c 1"]
    lanes: list[list[str]] = [[funds[0]], [funds[1]]]
    random.shuffle(again)
    for text in (*(text for text in pool if text not in funds), *again):
        lanes[random.randrange(2)].append(text)
    relays = random.choice((((0, 1),), ((0, 1), (0, 1)), ((0, 2), (1, 2))))
    return Plan(tuple(map(tuple, lanes)), random.choice((2, 2, 2, 3)), relays, random.choice((1, 2, 3, 9)))


@lru_cache(maxsize=4096)
def _intent(text: str) -> Intent:
    return script(text)[0]


class Decoder:
    """Decodes an intent from its text, in place of Avro."""

    def decode(self, value: bytes | None) -> Intent:
        """Return the intent, or raise Undecodable."""
        text = (value or b"").decode()
        if not text or text.startswith("?"):
            raise Undecodable(QuarantineReason.UNDECODABLE, "These bytes are no intent.")
        return _intent(text)

    def is_ready_for(self, _: bytes | None) -> bool:
        """Return True always: there is no registry to ask."""
        return True


class Pauses:
    """Replaces the event that tells a process to stop. A wait on it gives the other processes a turn."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def is_set(self) -> bool:
        """Return False: processes are never told to stop here, only killed."""
        return False

    def wait(self, _: float) -> bool:
        """Pause between two tries."""
        self._process.step("code")
        self._process.scheduler.pause()
        return False


# ---------------------------------------------------------------------------------------------- processes


class Worker:
    """One life of a posting worker: the loop that Faust runs, with the real runner and poster."""

    reader: ClassVar[IntentReader] = IntentReader(cast(IntentDecoder, Decoder()))

    def __init__(self, world: "World", process: Process) -> None:
        self._broker, self._process, self._name = world.broker, process, process.name
        self._poster = world.parts.poster(
            world.parts.posting_store(world.database, process),
            self.reader,
            partial(world.broker.describe, process),
            partial(world.broker.with_record, process),
            published=partial(world.broker.published, process),
            ask_topic_id=lambda: done("id"),
            now_microseconds=world.clock,
            sign=make_sign(KEY),
            fault=process.fault,
        )
        self._runner = world.parts.runner(self._poster, OPTIONS, METRICS)
        self._runner.stopping = cast(Any, Pauses(process))
        self._records_max = world.records_max
        self._generation = -1
        self._next: dict[int, int] = {}
        self._buffer: list[Fetch] = []

    def run(self) -> None:
        """Fetch and process for ever."""
        while True:
            choice = self._process.step("consumer")
            what = "" if choice is None else choice.what
            number = 0 if choice is None else choice.number
            if self._generation != self._broker.generation and what != "unaware":
                self._generation = self._broker.generation
                self._seek()
            if what == "rewind":
                self._next = {lane: number % (offset + 1) for lane, offset in self._next.items()}
                self._process.scheduler.tell("{} fetches again from {}", self._name, self._next)
            self._fetch(what, number)
            if what == "fetch ahead" and len(self._buffer) < BUFFERED_MAX:
                continue
            if self._buffer:
                fetch = self._buffer.pop(0)
                spans = {tp.partition: f"{part.start} to {part.end - 1}" for tp, part in fetch.partitions.items()}
                self._process.scheduler.tell("{} has fetched (lane: offsets) {}", self._name, spans)
                if not self._runner._process(fetch):
                    self._process.scheduler.tell("{} has lost its fence", self._name)
                    self._seek()
            else:
                self._process.scheduler.wait(self._has_work, idle=True)

    def _seek(self) -> None:
        owned = [TP(TOPIC, lane) for lane in self._broker.owned(self._name)]
        positions = self._runner._take_over(owned)
        self._next = {tp.partition: offset for tp, offset in positions.items()}
        self._process.scheduler.tell("{} takes over (lane: offset) {}", self._name, self._next)

    def _has_work(self) -> bool:
        if self._generation != self._broker.generation:
            return True
        return any(offset < len(self._broker.lanes[lane]) for lane, offset in self._next.items())

    def _fetch(self, what: str, number: int) -> None:
        """Fetch once from the broker. A worker may fetch every lane that it believes it owns."""
        partitions: dict[TP, FetchedPart] = {}
        for lane, start in self._next.items():
            end = min(len(self._broker.lanes[lane]), start + self._records_max)
            if what in ("part of it", "fetch ahead"):
                end = min(end, start + 1 + number % 3)
            if start < end:
                found = [self._broker.message(lane, offset) for offset in range(start, end)]
                messages: list[Work] = [cast(Work, self.reader.prepare(each)) for each in found if each is not None]
                if what == "record left out" and messages:
                    messages.pop(number % len(messages))
                partitions[TP(TOPIC, lane)] = FetchedPart(start, end, messages)
                self._next[lane] = end
        if partitions:
            self._buffer.append(Fetch(partitions))


class World:
    """Everything of one run."""

    def __init__(self, plan: Plan, choices: Drawn | Replayed, parts: Parts, story: list[str] | None) -> None:
        self.parts = parts
        self.records_max = plan.records_max
        self.scheduler = Scheduler(choices, story)
        workers = [f"worker {'ABC'[number]}" for number in range(plan.workers)]
        self.broker = Broker(self.scheduler, [list(lane) for lane in plan.lanes], workers)
        self.database = Database(self.scheduler, parts.guards)
        self.judge = Judge(self.database, self.broker)
        self.database.on_commit = self.judge.committed
        self.broker.on_told = self.judge.told
        self.scheduler.rebalance = self.broker.rebalance
        self.scheduler.on_stall = self._stalled
        self.scheduler.is_done = self.judge.is_settled
        self._time = 0
        for name in workers:
            self.scheduler.add(name, partial(self._lives, self._worker))
        # If an instance has two relays, the fenced one may end once there is calm, as long as one relay of each
        # instance runs.
        self._spare_relays = len(plan.relays) - len(set(plan.relays))
        for number, (instance, instances) in enumerate(plan.relays):
            self.scheduler.add(f"relay {'RS'[number]}", partial(self._lives, partial(self._relay, instance, instances)))

    def clock(self) -> int:
        """Return the time in microseconds; each call returns a later time."""
        self._time += 1
        return self._time

    def _stalled(self, task: Task, number: int) -> None:
        """Let Postgres end the session of a task that sleeps in a transaction, if the sleep is long."""
        process: Process = task.process
        if number % 2 and process.is_in_transaction:
            self.scheduler.later(f"Postgres ends the session of {task.name}, which sleeps", process.lose_sessions)

    def _lives(self, live: Callable[[Process], None], task: Task) -> None:
        """Run one life of a process after another."""
        while True:
            process = Process(task.name, self.scheduler)
            task.process = process
            try:
                live(process)
            except Crashed:
                self.scheduler.tell("{} is killed", task.name)
                if process.is_in_transaction:
                    self.scheduler.later(f"Postgres notices that {task.name} is gone", process.lose_sessions)
            except RelayFenced:
                self.scheduler.tell("{} was shut out and ends", task.name)
                if self.scheduler.is_calm and self._spare_relays:
                    self._spare_relays -= 1
                    return
            except (Outage, *TRANSIENT, KafkaException) as error:
                raise Violation("outages are waited out", f"{task.name} died of {error!r}") from error
            except Exception as error:
                raise Violation("no process dies of itself", f"{task.name} died of {error!r}") from error
            self.scheduler.pause()

    def _worker(self, process: Process) -> None:
        Worker(self, process).run()

    def _relay(self, instance: int, instances: int, process: Process) -> None:
        def encoded(record: Any) -> Any:
            return record

        relay = self.parts.relay(
            SimulatedRelayStore(self.database, process),
            RelayEncoders(encoded, lambda _: b"", encoded, encoded),
            RelayOptions(Kafka("nowhere"), Topics(), instance, instances, records_max=3),
            make_producer=cast(Any, partial(self.parts.producer, self.broker, process)),
            read_positions=lambda _, topic: self.broker.read_positions(process, topic),
            fault=process.fault,
        )
        relay.run(cast(Any, Pauses(process)))


def run(
    plan: Plan, choices: Drawn | Replayed | None = None, parts: Parts = Parts(), *, telling: bool = False
) -> Result:
    """Run a plan with its own choices, or with other choices.

    The plan in the result holds the choices that were made.
    """
    made = choices or Replayed(plan.choices, plan.calm_step)
    story: list[str] | None = [] if telling else None
    world = World(plan, made, parts, story)
    violation = world.scheduler.run()
    taken = replace(plan, choices=tuple(made.taken), calm_step=made.steps)
    if story is not None and violation is not None:
        story.append(f"=> {violation}")
    counts = dict(world.database.counts)
    return Result(taken, violation, world.scheduler.steps, story or [], world.judge.fates(), counts)


def run_seed(seed: int, parts: Parts = Parts(), lanes: tuple[tuple[str, ...], ...] | None = None) -> Result:
    """Run the plan of a seed, with the given lanes or with random lanes."""
    random = Random(seed)
    plan = drawn_plan(random)
    return run(plan if lanes is None else replace(plan, lanes=lanes), Drawn(random), parts)


@contextmanager
def quiet() -> Iterator[None]:
    """Write no log lines inside the block: every one of thousands of faults would write some."""
    kept = structlog.get_config()
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        structlog.configure(**kept)


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent
