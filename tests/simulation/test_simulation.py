"""Posting and relay under thousands of interleavings and faults; failures can be replayed and shrunk."""

import time
from collections import Counter
from dataclasses import replace

import pytest

from tests.simulation.__main__ import main
from tests.simulation.mutations import MUTATIONS
from tests.simulation.scheduler import MENUS, Choice, Drawn
from tests.simulation.shrinking import Shrinker
from tests.simulation.world import Plan, run, run_seed

SEEDS = range(1500)
SECONDS_MAX = 25.0
"""A busy machine may not run all seeds within this time. It runs at least LEAST of them."""
LEAST = 300

CALM = Plan(
    (("fund external:b>users:1 10", "spend users:1>external:b 6"), ("back ~fund users:1>external:b 4",)),
    workers=2,
    relays=((0, 1),),
)


@pytest.mark.timeout(600)
def test_every_invariant_holds_in_every_interleaving() -> None:
    seen: Counter[str] = Counter()
    began = time.monotonic()
    for seed in SEEDS:
        result = run_seed(seed)
        assert result.violation is None, f"seed {seed}: {result.violation}"
        seen.update(choice.what for choice in result.plan.choices)
        seen.update(result.fates)
        seen.update(result.counts)
        if seed >= LEAST and time.monotonic() - began > SECONDS_MAX:
            break
    # The runs prove something only if each of these events occurs in at least one of them.
    wanted = {what for menu in MENUS.values() for what in menu}
    wanted |= {"posted", "duplicate", "idempotency_conflict", "insufficient_funds", "undecodable", "no_record"}
    wanted |= {"amount_overflow", "reversal_exceeds_original", "waits", "journal_settled"}
    assert wanted - seen.keys() == set()


def test_without_faults_all_is_posted_in_few_steps() -> None:
    result = run(CALM)
    assert result.violation is None
    assert sorted(result.fates) == ["original_not_found", "posted", "posted"] or result.fates == ["posted"] * 3
    assert result.steps < 400


def test_the_same_plan_is_the_same_run() -> None:
    for seed in range(20):
        drawn = run_seed(seed)
        first, second = run(drawn.plan, telling=True), run(drawn.plan, telling=True)
        assert first.story == second.story
        assert (first.steps, first.fates, first.plan) == (drawn.steps, drawn.fates, drawn.plan)


def test_a_choice_that_cannot_be_made_is_passed_over() -> None:
    plan = replace(CALM, choices=(Choice(3, "commit lost", 1), Choice(10_000, "crash", 0)))
    assert run(plan).plan.choices == ()


def test_a_failure_shrinks_to_a_story() -> None:
    mutation = MUTATIONS["no index of settled intents"]
    failed = next(
        result
        for result in (run_seed(seed, mutation.parts) for seed in range(mutation.runs_max))
        if result.violation is not None
    )
    shortest = Shrinker(failed, mutation.parts).shrink()
    assert shortest.violation is not None
    assert failed.violation is not None
    assert shortest.violation.invariant == failed.violation.invariant
    assert len(shortest.plan.choices) <= min(8, len(failed.plan.choices))
    assert sum(map(len, shortest.plan.lanes)) <= 6
    assert shortest.story[-1].startswith("=> an intent is settled once")
    assert len(shortest.story) < 100
    # The shortest plan works as a test: it fails without the index and passes with it.
    assert run(shortest.plan, parts=mutation.parts).violation is not None
    assert run(shortest.plan).violation is None


def test_the_command_says_how_much_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "5", "--runs", "60"]) == 0
    shown = capsys.readouterr().out
    assert "60 interleavings from seed 5 on" in shown
    assert "All invariants held." in shown


def test_the_command_tells_the_story_of_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that objects to every settled row stands in for a bug."""

    def unfair(self: object, row: object, place: str) -> None:
        from tests.simulation.scheduler import Violation

        raise Violation("fairness", place)

    monkeypatch.setattr("tests.simulation.judge.Judge._fate", unfair)
    assert main(["--runs", "5"]) == 1
    shown = capsys.readouterr().out
    assert "Seed 0: fairness: lane" in shown
    assert "=> fairness: lane" in shown
    assert "Plan(lanes=" in shown


def test_chance_is_the_seed_alone() -> None:
    from random import Random

    assert Drawn(Random(3)).steps == Drawn(Random(3)).steps
    assert run_seed(4).plan == run_seed(4).plan
