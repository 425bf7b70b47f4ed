"""Posting on the real parts: each case produces to payments.intents and reads what became of it."""

from tests.posting_bench import PostingBench


def test_a_transfer_is_posted_once_and_its_repeat_is_a_duplicate(bench: PostingBench) -> None:
    bench.send(bench.transfer("first", "external:bank", "users:1:wallet", 700))
    bench.send(bench.transfer("first", "external:bank", "users:1:wallet", 700))
    assert bench.post() == ["posted", "duplicate"]
    assert bench.balance("users:1:wallet") == -700
    assert bench.balance("external:bank") == 700
