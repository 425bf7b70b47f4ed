"""Posting on real Kafka and Postgres: the fates of intents, and what the ledger holds afterwards."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from db.books import add_tenant, add_unit, set_chart_pattern
from db.connections import connect
from domain.chart import AccountClass, ChartPattern
from domain.intents import AMOUNT_MINOR_MAX, LEGS_MAX, Intent, Leg, compute_intent_id
from tests.intent_strategies import cuts, intent_sequences
from tests.posting_bench import ACCEPTED_TIME, PostingBench, intent, leg
from tests.posting_cases import SEQUENCES
from tests.posting_model import MODEL_CHART, LedgerModel, pair, reversal, script, transfer


@pytest.fixture
def model_books(database: str) -> None:
    """Set the chart of the naive ledger for the tenants `default` and `other`."""
    with connect(database, "ledgerline_operator") as operator:
        add_tenant(operator, "other")
        for tenant in ("default", "other"):
            for pattern, (kind, side, floor) in MODEL_CHART.items():
                set_chart_pattern(operator, tenant, ChartPattern(pattern, AccountClass(kind), side, floor))


def apart(intents: list[Intent], number: int) -> list[Intent]:
    """Return the same intents with accounts and keys of their own, so that many cases fit into one ledger."""

    def moved(asked: Intent) -> Intent:
        legs = tuple(each._replace(account=each.account.replace(":", f":{number}-")) for each in asked.legs)
        key = f"{number}-{asked.idempotency_key}"
        return asked._replace(legs=legs, idempotency_key=key, intent_id=compute_intent_id(asked.tenant, key))

    moves = [moved(asked) for asked in intents]
    ids = {asked.intent_id: new.intent_id for asked, new in zip(intents, moves, strict=True)}
    return [
        asked._replace(reverses=ids.get(asked.reverses, asked.reverses)) if asked.reverses else asked
        for asked in moves
    ]  # fmt: skip


def test_a_transfer_is_posted_once_and_its_repeat_is_a_duplicate(bench: PostingBench) -> None:
    bench.send(bench.transfer("first", "external:bank", "users:1:wallet", 700))
    bench.send(bench.transfer("first", "external:bank", "users:1:wallet", 700))
    assert bench.post() == ["posted", "duplicate"]
    assert bench.balance("users:1:wallet") == -700
    assert bench.balance("external:bank") == 700
    assert bench.post() == [], "nothing is posted again"
    bench.verify()


@pytest.mark.usefixtures("model_books")
@pytest.mark.parametrize("size", [1000, 3])
def test_sequences_have_their_fates_however_they_are_cut(bench: PostingBench, size: int) -> None:
    moves = [move for number, (text, _) in enumerate(SEQUENCES) for move in apart(script(text), number)]
    expected = [fate for _, fates in SEQUENCES for fate in fates.split(" ")]
    found: list[str] = []
    for start in range(0, len(moves), size):
        found += bench.post_now(moves[start : start + size])
    assert dict(enumerate(found)) == dict(enumerate(expected))
    bench.verify()


@pytest.mark.usefixtures("model_books")
def test_any_sequence_over_two_lanes_in_any_batches_has_the_naive_ledgers_fates(bench: PostingBench) -> None:
    """The poster decides the two lanes of a batch one after the other, and so does the model here."""
    examples = iter(range(1000))

    @settings(
        max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate,), database=None
    )
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        number = next(examples)
        moves = data.draw(intent_sequences())
        sent = [
            (move, own, data.draw(st.integers(0, 1))) for move, own in zip(moves, apart(moves, number), strict=True)
        ]
        model = LedgerModel()
        for size in data.draw(cuts(len(moves))):
            part, sent = sent[:size], sent[size:]
            by_lane = {lane: [own for _, own, its in part if its == lane] for lane in (0, 1)}
            batches = [bench.batch(asked, lane) for lane, asked in by_lane.items() if asked]
            bench.poster.handle(batches)
            found = [fate for made in batches for fate in bench.fates(made.partition, made.expected_offset)]
            assert found == [model.post(move) for lane in (0, 1) for move, _, its in part if its == lane]
        for (account, currency), amount in model.balances.items():
            assert bench.balance(account.replace(":", f":{number}-"), currency) == amount

    check()
    bench.verify()


def test_the_mirror_of_the_first_body_is_what_a_reversal_locks(bench: PostingBench, database: str) -> None:
    """One batch has two bodies under one key, and a reversal: the second body is only a conflict."""
    with connect(database, "ledgerline_operator") as operator:
        set_chart_pattern(operator, "default", ChartPattern("reserve:*", AccountClass.LIABILITY, -1, 50))
    assert bench.post_now(script("fund external:b>reserve:a 500")) == ["posted"]
    moves = script("f external:b>reserve:a 9 | f external:b>users:1 9 | r ~f")
    assert bench.post_now(moves) == ["posted", "idempotency_conflict", "posted"]
    bench.verify()


def test_a_thousand_legs_are_posted_and_one_more_is_refused(bench: PostingBench) -> None:
    wide = [each for number in range(LEGS_MAX // 2) for each in pair("external:bank", f"users:{number}", number + 1)]
    assert len(wide) == LEGS_MAX
    fates = bench.post_now(
        [
            transfer("wide", *wide),
            transfer("wider", *wide, Leg("external:bank", 1, 1, "EUR")),
            transfer("widest", *wide * 10),
            reversal("back", "wide"),
        ]
    )
    assert fates == ["posted", "too_many_legs", "too_many_legs", "posted"]
    assert bench.balance("users:499") == 0
    assert [row["leg_count"] for row in bench.rows("SELECT leg_count FROM ledger.journal ORDER BY seq")] == [
        LEGS_MAX, 0, 0, LEGS_MAX // 2 + 1,
    ]  # fmt: skip
    bench.verify()


def test_no_sum_of_a_lifetime_refuses_an_intent(bench: PostingBench) -> None:
    """Sums of one lane pass 64 bits within a batch and over batches; the true balances still decide."""
    big = AMOUNT_MINOR_MAX
    moves = [
        transfer("n1", *pair("external:bank", "users:1", 5)),
        *(transfer(f"b{number}", *pair("external:bank", "external:other", big)) for number in range(3)),
        transfer("n2", *pair("external:till", "users:1", 6)),
    ]
    assert bench.post_now(moves) == ["posted"] * len(moves)
    assert bench.post_now([transfer("b4", *pair("external:bank", "external:other", big))]) == ["posted"]
    assert bench.balance("external:other") == -4 * big
    back = [transfer(f"r{number}", *pair("external:other", "external:bank", big)) for number in range(4)]
    assert bench.post_now(back) == ["posted"] * 4
    assert (bench.balance("external:other"), bench.balance("external:bank")) == (0, 5)
    assert bench.post_now(moves) == ["duplicate"] * len(moves)
    bench.verify()


def test_a_wallet_of_18_decimals_goes_on_after_5_in_5_out_5_in(bench: PostingBench, database: str) -> None:
    with connect(database, "ledgerline_operator") as operator:
        add_unit(operator, "default", "ETH", 18)
    five = 5 * 10**18
    for number in range(4):
        moves = [
            transfer(f"i{number}", *pair("external:chain", "users:1", five, "ETH")),
            transfer(f"o{number}", *pair("users:1", "external:chain", five, "ETH")),
        ]
        assert bench.post_now(moves) == ["posted", "posted"]
    assert bench.balance("users:1", "ETH") == 0
    bench.verify()


@pytest.mark.parametrize("lane", [0, 1])
def test_a_wallet_moved_to_itself_is_not_locked(bench: PostingBench, lane: int) -> None:
    """A wallet with 10.00 EUR tries to move far more to itself. Afterwards each lane still pays out its balance."""
    moves = [
        transfer("in", *pair("external:bank", "users:1", 1000)),
        transfer("hostile", *pair("users:1", "users:1", 9223372036854774000)),
        transfer("all", *pair("users:1", "users:1", 1000)),
        transfer("more", *pair("external:bank", "users:1", 1700)),
    ]
    assert bench.post_now(moves, lane) == ["posted", "insufficient_funds", "posted", "posted"]
    for other in (0, 1):
        out = transfer(f"out{other}", *pair("users:1", "external:bank", 1350))
        assert bench.post_now([out], other) == ["posted"]
    assert bench.balance("users:1") == 0
    bench.verify()


def test_the_other_lane_has_a_shard_of_its_own(bench: PostingBench) -> None:
    big = AMOUNT_MINOR_MAX
    assert bench.post_now([transfer("b1", *pair("external:bank", "external:other", big))], lane=0) == ["posted"]
    assert bench.post_now([transfer("b2", *pair("external:bank", "external:other", big))], lane=1) == ["posted"]
    assert bench.balance("external:bank") == 2 * big
    bench.verify()


def test_a_constrained_account_beyond_64_bits_over_its_lanes_is_still_counted(bench: PostingBench) -> None:
    big = AMOUNT_MINOR_MAX
    for lane in (0, 1):
        funded = transfer(f"b{lane}", *pair("external:bank", "users:1", big))
        assert bench.post_now([funded], lane) == ["posted"]
    moves = [transfer("d1", *pair("users:1", "external:bank", big)), transfer("d2", *pair("users:1", "external:x", 1))]
    assert bench.post_now(moves) == ["posted", "posted"]
    assert bench.balance("users:1") == 1 - big
    bench.verify()


def test_duplicates_and_conflicts_are_seen_across_lanes(bench: PostingBench) -> None:
    first, other = script("f external:b>users:1 9 | f!x external:b>users:1 9")
    assert bench.post_now([first], lane=0) == ["posted"]
    assert bench.post_now([first, other], lane=1) == ["duplicate", "idempotency_conflict"]
    bench.poster.handle([bench.batch([other], 0), bench.batch(script("g external:b>users:1 1"), 1)])
    assert (bench.fates(0), bench.fates(1)) == (
        ["posted", "idempotency_conflict"],
        ["duplicate", "idempotency_conflict", "posted"],
    )
    assert bench.balance("users:1") == -10
    bench.verify()


def test_one_batch_may_hold_an_intent_in_both_lanes(bench: PostingBench) -> None:
    (asked,) = script("f external:b>users:1 9")
    bench.poster.handle([bench.batch([asked], 0), bench.batch([asked, *script("r ~f")], 1)])
    assert (bench.fates(0), bench.fates(1)) == (["posted"], ["duplicate", "posted"])
    assert bench.balance("users:1") == 0
    bench.verify()


def test_a_reversal_in_another_lane_and_another_batch(bench: PostingBench) -> None:
    assert bench.post_now(script("f external:b>users:1 9"), lane=0) == ["posted"]
    assert bench.post_now(script("r ~f users:1>external:b 4"), lane=1) == ["posted"]
    assert bench.post_now(script("q ~f | p ~f"), lane=0) == ["posted", "reversal_exceeds_original"]
    rows = bench.rows("SELECT reverses FROM ledger.journal WHERE outcome = 'posted' ORDER BY lane, seq")
    assert [row["reverses"] for row in rows] == [
        None,
        compute_intent_id("default", "f"),
        compute_intent_id("default", "f"),
    ]
    assert bench.balance("users:1") == 0
    bench.verify()


def test_units_and_charts_are_followed_as_soon_as_they_change(bench: PostingBench, database: str) -> None:
    def miles(key: str) -> Intent:
        return transfer(key, *pair("external:airline", "users:1", 5, "MILES"))

    def loans(key: str) -> Intent:
        return transfer(key, *pair("loans:1", "external:bank", 5))

    assert bench.post_now([miles("m1"), loans("l1")]) == ["unknown_currency", "unknown_account"]
    with connect(database, "ledgerline_operator") as operator:
        add_unit(operator, "default", "MILES", 0)
        set_chart_pattern(operator, "default", ChartPattern("loans:*", AccountClass.ASSET, 1, 0, frozenset({"EUR"})))
    assert bench.post_now([miles("m2"), loans("l2")]) == ["posted", "posted"]
    with connect(database, "ledgerline_operator") as operator:
        set_chart_pattern(operator, "default", ChartPattern("loans:*", AccountClass.ASSET, 1, 0, frozenset({"USD"})))
    assert bench.post_now([loans("l3")]) == ["currency_not_allowed"]
    assert bench.post_now([loans("l1")]) == ["duplicate"], "a rejection is final for its key"
    bench.verify()


def test_an_open_account_keeps_the_floor_that_it_was_opened_with(bench: PostingBench, database: str) -> None:
    assert bench.post_now(script("f external:b>users:1 9")) == ["posted"]
    with connect(database, "ledgerline_operator") as operator:
        set_chart_pattern(operator, "default", ChartPattern("users:**", AccountClass.LIABILITY, -1, None))
    moves = script("s users:1>external:b 10 | t users:2>external:b 10")
    assert bench.post_now(moves) == ["insufficient_funds", "posted"]


@pytest.mark.parametrize(
    ("changes", "fate", "kept"),
    [
        ({"reference": "\N{MONEY BAG} a\u0301 \u202e\x01"}, "posted", True),
        ({"metadata": {"emoji": "\N{MONEY BAG}", "control": "\x1f\x7f"}}, "posted", True),
        ({"value_time": -1}, "posted", True),
        ({"reference": "a\x00b", "metadata": {"k": "v"}}, "malformed", False),
        ({"metadata": {"k": "a\x00b"}, "reference": "r"}, "malformed", False),
        ({"metadata": {"bad key": "v"}}, "malformed", False),
        ({"type": "unknown", "reference": "r"}, "unsupported_type", False),
        ({"value_time": 2**62, "reference": "r"}, "value_time_out_of_range", True),
        ({"accepted_time": 0}, "posted", True),
        ({"accepted_time": 0, "value_time": 0}, "posted", True),
        ({"metadata": {"\ue000": "b", "\N{MONEY BAG}": "a"}, "reference": "r"}, "malformed", False),
        ({"accepted_time": 253_370_764_800_000_000}, "value_time_out_of_range", True),
        ({"accepted_time": 253_370_764_800_000_000, "value_time": 5}, "posted", True),
    ],
)
def test_what_of_an_intent_is_kept(bench: PostingBench, changes: dict[str, Any], fate: str, kept: bool) -> None:
    asked = bench.transfer("key \N{MONEY BAG}", "external:bank", "users:1", 7, **changes)
    bench.send(asked)
    bench.send(bench.transfer("next", "external:bank", "users:1", 1))
    assert bench.post() == [fate, "posted"]
    row = bench.rows("SELECT * FROM ledger.journal WHERE seq = 0")[0]
    assert row["idempotency_key"] == "key \N{MONEY BAG}"
    assert row["reference"] == (asked["reference"] if kept else None)
    assert (row["metadata"] or {}) == (asked["metadata"] if kept else {})
    asked_time = asked["value_time"]
    if asked_time is None:
        asked_time = asked["accepted_time"] or row["booked_time"]
    assert row["value_time"] == (asked_time if fate == "posted" else None)
    bench.verify()


def test_a_kafka_clock_far_back_changes_nothing_and_one_far_ahead_is_refused_by_the_broker(bench: PostingBench) -> None:
    value = bench.value(bench.transfer("k", "external:bank", "users:1", 7))
    with pytest.raises(AssertionError, match="INVALID_TIMESTAMP"):
        bench.send_bytes(value, timestamp=253_370_764_800_000)
    bench.send_bytes(value, timestamp=1)
    assert bench.post() == ["posted"]
    assert bench.rows("SELECT value_time FROM ledger.journal")[0]["value_time"] == ACCEPTED_TIME
    bench.verify()


def test_booked_time_never_falls_in_a_lane_even_if_the_clock_does(bench: PostingBench) -> None:
    clock = iter((5_000, 4_000, 0, 9_000))
    poster = bench.new_poster(now_microseconds=lambda: next(clock))
    for number in range(4):
        bench.post_now(script(f"k{number} external:b>users:1 1"), poster=poster)
    rows = bench.rows("SELECT booked_time FROM ledger.journal ORDER BY seq")
    assert [row["booked_time"] for row in rows] == [5_000, 5_000, 5_000, 9_000]
    bench.verify()


def test_a_refused_intent_opens_no_account_unless_money_alone_was_missing(bench: PostingBench) -> None:
    moves = script("a external:b>nobody 1 | c users:7>merchants:8 1")
    assert bench.post_now(moves) == ["unknown_account", "insufficient_funds"]
    found = bench.rows("SELECT address FROM ledger.account ORDER BY address")
    assert [row["address"] for row in found] == ["merchants:8", "users:7"]
    assert bench.rows("SELECT * FROM ledger.balance") == []


def test_an_intent_without_a_leg_that_it_names_is_told_by_its_name(bench: PostingBench) -> None:
    """The only hand-written record here: it fixes the Avro words of the domain's values, such as directions."""
    assert bench.post_now([intent("k", [leg("external:b", "debit", 3), leg("users:1", "credit", 3)])]) == ["posted"]
    entries = bench.rows("SELECT direction, amount_minor, currency FROM ledger.entry ORDER BY leg")
    assert [tuple(row.values()) for row in entries] == [(1, 3, "EUR"), (-1, 3, "EUR")]
