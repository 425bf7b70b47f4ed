"""One thread, many simulated processes: who goes on at each step, and what befalls it, are choices to be replayed.

Processes are greenlets. Each call into the model, and each fault point of the real code, is a step: `Scheduler.step`.
By default the one that runs goes on; a choice makes another go on, or brings a fault. Choices are drawn by chance or
read from a list. When they have come to an end there is calm: nothing is drawn any more, and all that hangs is let go.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from greenlet import GreenletExit, getcurrent, greenlet

NUMBERS: Final = 60
"""A choice's number is below this; it is taken modulo whatever there is to choose from, so 60 for its divisors."""
CALM_STEPS_MAX: Final = 6000
"""So many steps after the last fault everything is to be posted and relayed; an unharmed small world takes some 400."""

Condition = Callable[[], object]

ANYWHERE: Final = ("switch", "stall", "crash", "rebalance")
MENUS: Final[Mapping[str, tuple[str, ...]]] = {
    "code": ANYWHERE,
    "statement": (*ANYWHERE, "connection dies", "Postgres away"),
    "wait": ("switch", "lock timeout"),
    "commit": (*ANYWHERE, "commit lost", "answer lost", "commit late", "crash in commit"),
    "consumer": (*ANYWHERE, "unaware", "rewind", "part of it", "fetch ahead", "record left out"),
    "broker": (*ANYWHERE, "Kafka away"),
    "kafka commit": (*ANYWHERE, "commit lost", "answer lost", "commit late", "crash in commit", "timeout"),
}
"""Place -> what may happen there."""


class Choice(NamedTuple):
    """What happens at a step instead of nothing."""

    step: int
    what: str
    number: int
    """Which: a process, a lane, a count; see where it is used."""


class Crashed(BaseException):
    """The process is killed here. Not an Exception, as no code of the process may survive it."""


class Violation(BaseException):
    """An invariant that does not hold; not an Exception, as no code under test may catch it."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


class Drawn:
    """Choices by chance: each run has some of the faults only, at rates of its own, up to a last step."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.steps = random.randint(60, 500)
        kinds = sorted({what for menu in MENUS.values() for what in menu})
        usual = random.choice((0.01, 0.03, 0.1))
        rates = {what: usual if random.random() < 0.6 else 0.0 for what in kinds}
        rates |= {"switch": random.choice((0.03, 0.1, 0.3)), "crash": rates["crash"] / 5, "stall": rates["stall"] / 3}
        rates |= {what: 5 * rates[what] for what in ("commit late", "answer lost", "commit lost", "unaware", "timeout")}
        self._thresholds = {menu: self._ladder(rates, whats) for menu, whats in MENUS.items()}
        self.taken: list[Choice] = []

    @staticmethod
    def _ladder(rates: Mapping[str, float], whats: Sequence[str]) -> list[tuple[float, str]]:
        ladder, total = [], 0.0
        for what in whats:
            total += rates[what]
            ladder.append((total, what))
        return ladder

    def at(self, step: int, menu: str) -> Choice | None:
        """The choice at this step, if any."""
        ladder = self._thresholds[menu]
        drawn = self._random.random()
        if drawn >= ladder[-1][0]:
            return None
        what = next(what for threshold, what in ladder if drawn < threshold)
        choice = Choice(step, what, self._random.randrange(NUMBERS))
        self.taken.append(choice)
        return choice


class Replayed:
    """Choices from a list; one that cannot be made where it now stands is passed over."""

    def __init__(self, choices: Sequence[Choice], calm_step: int = 0) -> None:
        self._choices = {choice.step: choice for choice in choices}
        self.steps = max([calm_step, *self._choices])
        self.taken: list[Choice] = []

    def at(self, step: int, menu: str) -> Choice | None:
        """The choice at this step, if any."""
        choice = self._choices.get(step)
        if choice is None or choice.what not in MENUS[menu]:
            return None
        self.taken.append(choice)
        return choice


class Task:
    """A simulated process: what it runs, and what it waits for."""

    def __init__(self, scheduler: "Scheduler", name: str, body: Callable[["Task"], None]) -> None:
        self.scheduler = scheduler
        self.name = name
        self.condition: Condition | None = None
        self.idle = False
        """Waits for work, not for another process."""
        self.woken = False
        self.asleep_until = 0
        self.process: Any = None
        """The present life, as its world knows it."""
        self.greenlet = greenlet(lambda: scheduler.run_task(self, body))

    def is_ready(self, step: int) -> bool:
        """Whether it can go on."""
        if self.greenlet.dead or self.asleep_until > step:
            return False
        return self.woken or self.condition is None or bool(self.condition())


class Scheduler:
    """Lets one task run at a time; see the module."""

    def __init__(self, choices: Drawn | Replayed, story: list[str] | None = None) -> None:
        self._choices = choices
        self._story = story
        self._tasks: list[Task] = []
        self._hub = getcurrent()
        self._late: list[tuple[str, Callable[[], None]]] = []
        self._is_over = False
        self.current: Task | None = None
        self.steps = 0
        self.violation: Violation | None = None
        self.rebalance: Callable[[int], None] = lambda _: None
        self.on_stall: Callable[[Task, int], None] = lambda *_: None
        self.is_done: Callable[[], bool] = lambda: True

    @property
    def is_calm(self) -> bool:
        return self.steps >= self._choices.steps

    def tell(self, sentence: str, *values: object) -> None:
        """Add a sentence to the story, if one is told."""
        if self._story is not None:
            self._story.append(sentence.format(*values))

    def add(self, name: str, body: Callable[[Task], None]) -> None:
        """A process that begins when it is its turn."""
        self._tasks.append(Task(self, name, body))

    def later(self, sentence: str, action: Callable[[], None]) -> None:
        """Something that happens by itself, outside of all processes, at some step to come."""
        self._late.append((sentence, action))

    # ------------------------------------------------------------------------------------------ run

    def run(self) -> Violation | None:
        """Run until all is done, or an invariant is violated, which is returned."""
        while not self._is_over and self.violation is None:
            following = self._next(None)
            if following is None:
                break
            self._resume(following)
        self._is_over = True
        for task in self._tasks:
            if task.greenlet and not task.greenlet.dead:
                task.greenlet.throw(GreenletExit)
        return self.violation

    def run_task(self, task: Task, body: Callable[[Task], None]) -> None:
        """What a task's greenlet does."""
        try:
            body(task)
        except Violation as violation:
            self.violation = self.violation or violation

    def step(self, menu: str) -> Choice | None:
        """One step of the running process: here it may be switched from, stall or crash; other faults are returned."""
        if self._is_over or self.violation is not None:
            raise GreenletExit
        self.steps += 1
        if self.steps > self._choices.steps:
            if self.steps > self._choices.steps + CALM_STEPS_MAX:
                raise Violation(
                    "liveness", f"{CALM_STEPS_MAX} steps after the last fault not all is posted and relayed"
                )
            return None
        choice = self._choices.at(self.steps, menu)
        if choice is None:
            return None
        if choice.what == "switch":
            self._switch(choice.number)
        elif choice.what == "stall":
            self._stall(choice.number)
        elif choice.what == "rebalance":
            self.rebalance(choice.number)
        elif choice.what == "crash":
            raise Crashed
        else:
            return choice
        return None

    def wait(self, condition: Condition, *, idle: bool = False) -> None:
        """Let others run until the condition holds; an idle process is also woken when no other can go on."""
        task = self._running()
        while not condition():
            task.condition, task.idle = condition, idle
            self._leave(task)
            task.condition, task.idle = None, False
            if task.woken:
                task.woken = False
                return

    def pause(self) -> None:
        """Let the others run first."""
        self._leave(self._running())

    # ------------------------------------------------------------------------------------------ who runs

    def _running(self) -> Task:
        if self._is_over or self.current is None:
            raise GreenletExit
        return self.current

    def _resume(self, task: Task) -> None:
        self.current = task
        task.greenlet.switch()
        if self._is_over and getcurrent() is not self._hub:
            raise GreenletExit

    def _switch(self, number: int) -> None:
        task = self._running()
        others = [other for other in self._tasks if other is not task and other.is_ready(self.steps)]
        if not others and not self._late:
            return
        chosen = number % (len(others) + len(self._late))
        if chosen < len(others):
            self._resume(others[chosen])
        else:
            self._happen(chosen - len(others))

    def _stall(self, number: int) -> None:
        task = self._running()
        task.asleep_until = self.steps + 10 + 3 * number
        self.tell("{} stands still", task.name)
        self.on_stall(task, number)
        self._leave(task)

    def _happen(self, position: int) -> None:
        sentence, action = self._late.pop(position)
        self.tell("{}", sentence)
        try:
            action()
        except Violation as violation:
            self.violation = self.violation or violation

    def _leave(self, task: Task) -> None:
        following = self._next(task)
        if following is None:
            self._hub.switch()
            raise GreenletExit
        if following is not task:
            self._resume(following)

    def _next(self, after: Task | None) -> Task | None:
        """Who goes on when `after` cannot or will not: the others in turn, then itself; None when all is over."""
        while self.violation is None:
            start = 0 if after is None else self._tasks.index(after) + 1
            for task in (*self._tasks[start:], *self._tasks[:start]):
                if task.is_ready(self.steps):
                    return task
            if not self._let_time_pass():
                self._is_over = True
                break
        return None

    def _let_time_pass(self) -> bool:
        """Nobody can go on: the late happens, sleepers wake, the idle look again; False where all is done."""
        if self._late:
            self._happen(0)
            return True
        living = [task for task in self._tasks if not task.greenlet.dead]
        sleeping = [task for task in living if task.asleep_until > self.steps]
        if sleeping:
            min(sleeping, key=lambda task: task.asleep_until).asleep_until = 0
            return True
        idle = [task for task in living if task.idle]
        if len(idle) == len(living) and self.is_done():
            return False
        # Waiting takes no steps of its own, but is bounded like all else.
        self.steps += 10
        if not idle or self.steps > self._choices.steps + CALM_STEPS_MAX:
            waiting = ", ".join(task.name for task in living) or "nobody"
            self.violation = Violation("liveness", f"not all is posted and relayed, and these wait: {waiting}")
            return True
        for task in idle:
            task.woken = True
        return True
