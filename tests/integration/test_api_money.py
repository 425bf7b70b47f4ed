"""Money over HTTP: no single request and no lifetime of use makes an account refuse what its balance allows."""

from typing import Any

from db.books import add_unit
from db.connections import connect
from tests.api_bench import ApiBench, leg, post, transfer
from tests.posting_bench import PostingBench


def test_the_reversal_of_a_rejected_intent_is_final(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client:
        original = post(client, "k", transfer("users:1:wallet", "merchants:7", 5)).json()["intent_id"]
        assert bench.post() == ["insufficient_funds"]
        undo = {"type": "reversal", "reverses": original}
        assert post(client, "undo", undo).status_code == 202
        assert bench.post() == ["original_not_reversible"]
        told = post(client, "undo", undo)
        assert (told.status_code, told.json()["reason"]) == (200, "original_not_reversible")


def test_no_request_locks_a_wallet_and_each_lane_gives_the_same_answer(api: ApiBench, bench: PostingBench) -> None:
    """Wallets in both lanes get 10.00 EUR and try to move far more to themselves; then only their balance counts."""
    huge = 9_223_372_036_854_774_000
    steps = [
        (lambda wallet: transfer("external:bank", wallet, 1000), "posted"),
        (lambda wallet: transfer(wallet, wallet, huge), "insufficient_funds"),
        (lambda wallet: transfer(wallet, wallet, 1000), "posted"),
        (lambda wallet: transfer("external:bank", wallet, 1700), "posted"),
        (lambda wallet: transfer(wallet, "external:bank", 2701), "insufficient_funds"),
        (lambda wallet: transfer(wallet, "external:bank", 2700), "posted"),
    ]
    wallets = [f"users:lk{number}:wallet" for number in range(8)]
    used_lanes = set()
    with api.client() as client:
        for number, (body, expected) in enumerate(steps):
            answers = [post(client, f"{wallet} {number}", body(wallet)) for wallet in wallets]
            if number == 1:
                used_lanes = {answer.json()["receipt"]["partition"] for answer in answers}
            assert bench.post() == [expected] * len(wallets)
        items = client.get("/v1/accounts/users:lk1:wallet/balances").json()["items"]
    assert used_lanes == {0, 1}
    assert [item["balance_minor"] for item in items] == [0]
    bench.verify()


def test_five_ether_of_18_decimals_go_in_and_out_again_and_again(api: ApiBench, bench: PostingBench) -> None:
    with connect(api.dsn, "ledgerline_operator") as operator:
        add_unit(operator, "default", "ETH", 18)
    five = 5 * 10**18

    def move(debit: str, credit: str) -> dict[str, Any]:
        legs = [leg(debit, "debit", five, "ETH"), leg(credit, "credit", five, "ETH")]
        return {"type": "transfer", "legs": legs}

    with api.client() as client:
        for number in range(7):
            pair = ("users:1:wallet", "external:chain") if number % 2 else ("external:chain", "users:1:wallet")
            assert post(client, f"k{number}", move(*pair)).status_code == 202
            assert bench.post() == ["posted"]
        (item,) = client.get("/v1/accounts/users:1:wallet/balances").json()["items"]
    assert (item["balance_minor"], item["credits_minor"]) == (five, 4 * five)
    assert (item["balance"], item["credits"]) == ("5.000000000000000000", "20.000000000000000000")
    bench.verify()
