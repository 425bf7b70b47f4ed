"""The bench's functions without a ledger: figures from measurements, and the tables that show them."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.settings import REPOSITORY_ROOT
from tools.bench.cluster import Costs, cluster_text, lanes, measured_costs, plan, vcpus
from tools.bench.figures import Figure, growth, median_ratio, second_half, slope
from tools.bench.loads import ACCOUNTS, Load, constrained_load, hot_constrained_load, opening, overdraft, random_load
from tools.bench.loop import Sample, lag_growths
from tools.bench.plot import PANELS, draw
from tools.bench.processor_time import microseconds_each, used_since
from tools.bench.table import (
    CLUSTER_MARK,
    DISK_MARK,
    END_MARK,
    TABLE_MARK,
    DocumentError,
    disk_table,
    markdown_table,
    read_figures,
    run_document,
    text_table,
    written_into,
)

RATE = Figure("rate", "posted", 24_000.4, "/s", 0.5, limit=48_000.0, ratio=0.51)
LATENCY = Figure("latency", "p95 to 202", 25.04, "ms", 25.0, is_ceiling=True)


def test_noise_that_both_of_a_pair_share_drops_out_of_the_ratio() -> None:
    assert median_ratio([(100, 200), (10, 20), (55, 110)]) == 0.5


def test_one_wild_round_does_not_move_the_ratio() -> None:
    assert median_ratio([(100, 200), (1, 200), (100, 200)]) == 0.5


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ([10, 10, 10, 10], 0.0),
        ([10, 10, 12, 12], 0.2),
        ([20, 20, 99, 10, 10], -0.5),
        # The median at each end takes a tenth of the values, here one, but never fewer than two.
        ([10, 30, *[99] * 6, 40, 40], 1.0),
        # A tenth is three of thirty: one outlier at an end does not change the median.
        ([10, 10, 99, *[50] * 24, 11, 11, 99], 0.1),
    ],
)
def test_growth_is_from_the_median_of_the_beginning_to_that_of_the_end(values: list[float], share: float) -> None:
    assert growth(values) == pytest.approx(share)


def test_growth_cannot_be_told_from_three_values() -> None:
    with pytest.raises(ValueError, match="four values"):
        growth([1, 2, 3])


def test_slope_is_that_of_the_straight_line() -> None:
    assert slope([(0, 5), (1, 7), (2, 9)]) == pytest.approx(2)
    assert slope([(0, 1), (1, 0), (2, 1), (3, 0)]) == pytest.approx(-0.2)


def test_the_second_half_is_one_of_time_not_of_samples() -> None:
    assert second_half([(0, 1), (1, 2), (2, 3), (10, 4)]) == [(10, 4)]


def test_a_lag_that_grows_late_is_seen_though_it_shrank_before() -> None:
    samples = [
        Sample(seconds, 1000, 900, 800, 700, 800 - (0 if seconds < 10 else 10 * (seconds - 10)))
        for seconds in range(21)
    ]
    growths = lag_growths(samples)
    assert growths["audit"] == pytest.approx(10)
    assert growths["posting"] == growths["relay"] == growths["reconciliation"] == 0


@pytest.mark.parametrize(
    ("figure", "held"),
    [
        (RATE, True),
        (Figure("rate", "", 99.0, "/s", 0.5, limit=1.0, ratio=0.499), False),  # the ratio decides, not the value
        (LATENCY, False),
        (Figure("latency", "", 24.9, "ms", 25.0, is_ceiling=True), True),
        (Figure("memory", "", 300.0, "MB", 300.0, is_ceiling=True), False),  # the value must be under a ceiling
        (Figure("http", "", 15_000.0, "/s", 15_000.0), True),  # the value may equal a floor
        (Figure("loop", "", 9.0, "/s", 0.2, limit=1.0, ratio=0.3, also=False), False),  # `also` is false: a lag grew
    ],
)
def test_a_figure_holds_or_does_not(figure: Figure, held: bool) -> None:
    assert figure.held is held


def test_the_table_on_a_terminal() -> None:
    assert text_table([RATE, LATENCY]).splitlines() == [
        "figure          ours     limit  ratio    reach",
        "posted      24,000/s  48,000/s   0.51  >= 0.50  held",
        "p95 to 202     25 ms                   < 25 ms  NOT held",
    ]


def test_the_table_in_markdown() -> None:
    assert markdown_table([RATE]).splitlines()[-1] == "| posted | 24,000/s | 48,000/s | 0.51 | >= 0.50 | held |"


def test_runs_are_read_again_and_the_later_one_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "short.json", tmp_path / "long.json"
    longer = Figure("latency", "p95 to 202", 12.0, "ms", 25.0, is_ceiling=True, detail={"samples": [1, 2]})
    first.write_text(json.dumps(run_document([RATE, LATENCY])))
    second.write_text(json.dumps(run_document([longer])))
    assert read_figures([first, second]) == [RATE, longer]


def test_a_run_says_whether_its_figures_held() -> None:
    document: dict[str, Any] = run_document([RATE, LATENCY])
    assert [figure["held"] for figure in document["figures"]] == [True, False]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"figures": [{"key": "rate"}]}', '{"figures": [{"other": 1}]}'])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(DocumentError, match=r"run\.json"):
        read_figures([path])


def test_what_is_written_goes_between_its_marks_and_nowhere_else() -> None:
    text = f"before\n{TABLE_MARK}\nold\n{END_MARK}\nafter\n{DISK_MARK}\nother\n{END_MARK}\n"
    once = written_into(text, TABLE_MARK, "new")
    assert once == f"before\n{TABLE_MARK}\n\nnew\n\n{END_MARK}\nafter\n{DISK_MARK}\nother\n{END_MARK}\n"
    assert written_into(once, TABLE_MARK, "new") == once


@pytest.mark.parametrize("text", ["", TABLE_MARK, END_MARK, f"{END_MARK}{TABLE_MARK}"])
def test_a_document_without_marks_is_left_alone(text: str) -> None:
    with pytest.raises(DocumentError):
        written_into(text, TABLE_MARK, "new")


def test_the_document_has_the_marks() -> None:
    text = (REPOSITORY_ROOT / "docs" / "performance.md").read_text()
    for mark in (TABLE_MARK, DISK_MARK, CLUSTER_MARK):
        assert "here" in written_into(text, mark, "here")


def test_the_parts_of_the_disk_come_with_their_sum() -> None:
    assert disk_table({"entry": 80.0, "journal": 200.5}).splitlines()[2:] == [
        "| journal | 200.5 |",
        "| entry | 80.0 |",
        "| all | 280.5 |",
    ]


def test_processor_time_is_a_difference_shared_out() -> None:
    used = used_since({"worker": 1.0}, {"worker": 1.5, "kafka": 0.2, "idle": 0.0})
    assert microseconds_each(used, 10_000) == {"worker": 50.0, "kafka": 20.0}


# ---------------------------------------------------------------------------------------------------- cluster

COSTS = Costs(
    {"worker 1": 40.0, "relay": 12.0, "audit": 6.0, "api": 30.0, "kafka": 5.0, "postgres posting": 20.0,
     "postgres audit": 4.0, "bench": 99.0},
    disk_bytes=500.0, wal_bytes=1500.0,
)  # fmt: skip


def test_a_core_is_planned_for_three_fifths() -> None:
    assert vcpus(12.0) == pytest.approx(1.0)  # 50,000 intents at 12 us each use 0.6 s of processor time per second


def test_lanes_are_enough_for_batches_one_after_the_other() -> None:
    # A batch of 5,000 takes 0.3 s plus 5 ms, so a lane does 16,393 per second. The plan uses three fifths of that.
    assert lanes(COSTS) == 6


def test_the_plan_has_every_part_and_counts_each_once() -> None:
    lines = {line.name: line for line in plan(COSTS)}
    assert lines["together"].processor_us == 40 + 12 + 6 + 30
    assert lines["together"].machines == "3 x c7g.xlarge"  # two hold the 7.3 vCPUs; the third covers a loss
    assert lines["Postgres, with a standby"].processor_us == 24
    assert lines["Postgres, with a standby"].machines == "db.m7g, 4 vCPU"
    assert lines["Kafka"].processor_us == 15  # each of the three brokers spends 5 us


def test_a_million_postings_cost_what_the_machines_cost_meanwhile() -> None:
    hourly = sum(line.usd_per_hour for line in plan(COSTS))
    assert f"| machines that are busy all day | {hourly / 180:.3f} |" in cluster_text(COSTS)
    assert "| kept in Postgres, each month | 0.115 |" in cluster_text(COSTS)  # 500 MB, stored twice


def test_the_cluster_is_computed_from_a_whole_run_only() -> None:
    loop = Figure("loop", "", 1.0, "/s", 0.2, detail={"processor_us_per_intent": {"worker 1": 40.0}})
    http = Figure("http_batch", "", 1.0, "/s", 1.0, detail={"processor_us_per_intent": {"api": 30.0}})
    disk = Figure("disk_per_posting", "", 500.0, "bytes", 600.0, detail={"wal_bytes_each": 1500.0})
    assert measured_costs([loop, http]) is None
    assert measured_costs([loop, http, disk]) == Costs({"worker 1": 40.0, "api": 30.0}, 500.0, 1500.0)


# ---------------------------------------------------------------------------------------------------- plot


@pytest.mark.parametrize("measured", [["workers"], list(PANELS)])
def test_the_plot_is_drawn_of_what_was_measured(tmp_path: Path, measured: list[str]) -> None:
    points = [{"at": 100.0 * number, "ratio": 0.4, "processor_us": 70.0} for number in (1, 2, 3)]
    picture = tmp_path / "plot.svg"
    draw(dict.fromkeys(measured, points), picture)
    text = picture.read_text()
    assert [name for name, panel in PANELS.items() if f">{panel.label}<" in text] == [
        name for name in PANELS if name in measured
    ]


def test_the_same_points_are_drawn_as_the_same_file(tmp_path: Path) -> None:
    points = {"journal": [{"at": 1.0, "ratio": 0.4, "processor_us": 70.0}]}
    draw(points, tmp_path / "one.svg")
    draw(points, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


# ---------------------------------------------------------------------------------------------------- loads


def first_pairs(load: Load, count: int) -> list[tuple[str, str]]:
    return [next(load.pairs) for _ in range(count)]


@pytest.mark.parametrize("make", [random_load, constrained_load, hot_constrained_load])
def test_a_load_is_the_same_for_the_same_seed(make: Any) -> None:
    assert first_pairs(make(1), 50) == first_pairs(make(1), 50) != first_pairs(make(2), 50)


def test_random_transfers_are_between_two_accounts_out_of_all() -> None:
    pairs = first_pairs(random_load(1, accounts=5), 2000)
    assert all(debited != credited for debited, credited in pairs)
    assert {account for pair in pairs for account in pair} == {f"assets:a{number}" for number in range(5)}


def test_the_hot_account_is_on_every_transfer_and_is_drawn_down() -> None:
    assert {debited for debited, _ in first_pairs(hot_constrained_load(1), 100)} == {"users:hot:wallet"}


def test_every_random_account_is_opened_first() -> None:
    load, count = opening()
    pairs = first_pairs(load, count)
    assert {account for pair in pairs for account in pair} == {f"assets:a{number}" for number in range(ACCOUNTS)}


def test_what_can_run_dry_chooses_its_lane() -> None:
    assert [load.is_keyed for load in (random_load(1), constrained_load(1), overdraft())] == [False, True, True]
