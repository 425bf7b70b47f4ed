"""The seed decides the run: the same seed gives the same run, and a scenario can be repeated alone."""

from itertools import islice

from tools.chaos.runner import in_order, schedule
from tools.chaos.scenarios.catalog import REGRESSIONS, SCENARIOS


def test_one_seed_gives_one_order_and_another_seed_another() -> None:
    names = [[scenario.name for scenario in in_order(SCENARIOS, seed)] for seed in ("1/0", "1/0", "2/0")]
    assert names[0] == names[1] != names[2]


def test_one_pass_runs_each_scenario_once() -> None:
    ran = [scenario.name for scenario, _ in schedule(SCENARIOS, "1", None)][len(REGRESSIONS) :]
    assert sorted(ran) == sorted(scenario.name for scenario in SCENARIOS)
    assert len(set(ran)) == len(ran)


def test_a_soak_goes_on_with_other_seeds() -> None:
    count = len(SCENARIOS)
    ran = list(islice(schedule(SCENARIOS, "1", 10.0), len(REGRESSIONS) + 2 * count))[len(REGRESSIONS) :]
    assert {seed for _, seed in ran[:count]} == {"1/0"}
    assert {seed for _, seed in ran[count:]} == {"1/1"}


def test_a_scenario_alone_has_the_seed_that_it_has_in_the_whole_run() -> None:
    alone = list(schedule(SCENARIOS[3:4], "1", None))
    whole = list(schedule(SCENARIOS, "1", None))[len(REGRESSIONS) :]
    assert alone == [pair for pair in whole if pair[0] is SCENARIOS[3]]


def test_what_once_found_a_bug_is_repeated_first() -> None:
    first = list(islice(schedule(SCENARIOS, "9", None), len(REGRESSIONS)))
    assert [(scenario.name, seed) for scenario, seed in first] == [(each.scenario, each.seed) for each in REGRESSIONS]


def test_scenarios_that_spoil_their_ledger_come_last() -> None:
    spoils = [scenario.own_ledger for scenario in in_order(SCENARIOS, "5/0")]
    assert spoils == sorted(spoils)
