"""Run many simulated processes in one thread, and make every switch and every fault a choice that can be replayed.

The processes are greenlets. Each call into the model and each fault point of the real code is one step:
`Scheduler.step`. By default the running process goes on. A choice makes another process go on, or brings a fault.
Choices are drawn at random or read from a list. After the last choice comes calm: no more choices are drawn, and
everything that waits is released.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from greenlet import GreenletExit, getcurrent, greenlet

NUMBERS: Final = 60
"""A choice's number is below this. The number is taken modulo the count of alternatives; 60 has many divisors."""
CALM_STEPS_MAX: Final = 6000
"""Everything must be posted and relayed within this many steps after the last fault.

A small world without faults takes about 400 steps.
"""

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
"""Kind of step -> what may happen there."""


class Choice(NamedTuple):
    """An event at one step, in place of nothing."""

    step: int
    what: str
    number: int
    """Selects a process, a lane or a count; the code that handles the event says which."""


class Crashed(BaseException):
    """The process is killed here. It is not an Exception, so that no code of the process can survive it."""


class Violation(BaseException):
    """An invariant does not hold. It is not an Exception, so that no code under test can catch it."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


class Drawn:
    """Random choices. Each run has only some of the faults, at its own rates, up to its own last step."""

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
        """Return the choice at this step, or None."""
        ladder = self._thresholds[menu]
        drawn = self._random.random()
        if drawn >= ladder[-1][0]:
            return None
        what = next(what for threshold, what in ladder if drawn < threshold)
        choice = Choice(step, what, self._random.randrange(NUMBERS))
        self.taken.append(choice)
        return choice


class Replayed:
    """Choices from a list. A choice that its step does not allow is skipped."""

    def __init__(self, choices: Sequence[Choice], calm_step: int = 0) -> None:
        self._choices = {choice.step: choice for choice in choices}
        self.steps = max([calm_step, *self._choices])
        self.taken: list[Choice] = []

    def at(self, step: int, menu: str) -> Choice | None:
        """Return the choice at this step, or None."""
        choice = self._choices.get(step)
        if choice is None or choice.what not in MENUS[menu]:
            return None
        self.taken.append(choice)
        return choice


class Task:
    """A simulated process: its body, and the condition that it waits for."""

    def __init__(self, scheduler: "Scheduler", name: str, body: Callable[["Task"], None]) -> None:
        self.scheduler = scheduler
        self.name = name
        self.condition: Condition | None = None
        self.idle = False
        """True while the task waits for work, and not for another process."""
        self.woken = False
        self.asleep_until = 0
        self.process: Any = None
        """The process object of the present life, set by the world."""
        self.greenlet = greenlet(lambda: scheduler.run_task(self, body))

    def is_ready(self, step: int) -> bool:
        """Return whether the task can go on."""
        if self.greenlet.dead or self.asleep_until > step:
            return False
        return self.woken or self.condition is None or bool(self.condition())


class Scheduler:
    """Runs one task at a time; see the module."""

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
        """Add a sentence to the story, if a story is kept."""
        if self._story is not None:
            self._story.append(sentence.format(*values))

    def add(self, name: str, body: Callable[[Task], None]) -> None:
        """Add a process. It begins at its first turn."""
        self._tasks.append(Task(self, name, body))

    def later(self, sentence: str, action: Callable[[], None]) -> None:
        """Register an event that happens outside of all processes, at some later step."""
        self._late.append((sentence, action))

    # ------------------------------------------------------------------------------------------ run

    def run(self) -> Violation | None:
        """Run until everything is done or an invariant is violated. Return the violation, or None."""
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
        """Run the body of a task inside its greenlet."""
        try:
            body(task)
        except Violation as violation:
            self.violation = self.violation or violation

    def step(self, menu: str) -> Choice | None:
        """Do one step of the running process.

        A switch, a stall, a rebalance and a crash happen here. Every other fault is returned to the caller.
        """
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
        """Let others run until the condition holds. An idle process is also woken when no other process can go on."""
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
        """Return the task that goes on in place of `after`: the next ready one of the others, else `after` itself.

        Return None when everything is over.
        """
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
        """Let time pass when no task can go on; return False if everything is done.

        First a registered late event happens, then the first sleeper wakes, then all idle tasks look for work again.
        """
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
        # Waiting takes no steps by itself. It counts as 10 steps here, so that waiting is bounded like everything else.
        self.steps += 10
        if not idle or self.steps > self._choices.steps + CALM_STEPS_MAX:
            waiting = ", ".join(task.name for task in living) or "nobody"
            self.violation = Violation("liveness", f"not all is posted and relayed, and these wait: {waiting}")
            return True
        for task in idle:
            task.woken = True
        return True
