"""Both proving services as real processes: they keep up, survive idle time and kill -9, and publish a break."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.settings import Settings
from streams.proof.audit.verifier import main as verifier_main
from tests.command_line import environment, run, run_json
from tests.integration.test_audit import records
from tests.integration.test_reconciliation import busy, events
from tests.posting_bench import eventually
from tests.proving_bench import ProvingBench
from tests.service_process import ServiceProcess

QUICK = {
    "LEDGERLINE_AUDIT_SWEEP_SECONDS": "0.5",
    "LEDGERLINE_AUDIT_CHECKPOINT_SECONDS": "0.5",
    "LEDGERLINE_RECONCILIATION_SWEEP_SECONDS": "0.5",
    "LEDGERLINE_POSTING_STALL_SECONDS_MAX": "4",
}


def caught_up(bench: ProvingBench, agent: str) -> Callable[[], bool]:
    """Return a function that says whether the agent has read everything that is posted."""

    def look() -> bool:
        rows = bench.rows(
            f"SELECT l.lane FROM ledger.lane AS l LEFT JOIN {agent}.lane AS a USING (lane)"  # noqa: S608
            " WHERE l.next_seq IS DISTINCT FROM a.next_seq"
        )
        return not rows

    return look


@pytest.mark.parametrize("agent", ["reconciliation", "audit"])
def test_a_service_keeps_up_and_tells_of_a_break(
    proving: ProvingBench, settings: Settings, tmp_path: Path, agent: str
) -> None:
    busy(proving)
    with ServiceProcess(agent, settings, tmp_path, **QUICK) as service:
        service.wait_until_ready()
        eventually(caught_up(proving, agent), "the first records", 20)
        service.kill()
    for number in range(50):
        proving.send(proving.transfer(f"later-{number}", "external:bank", "users:1:wallet", 5), number % 2)
    proving.post_and_relay()
    with ServiceProcess(agent, settings, tmp_path, **QUICK) as service:
        service.wait_until_ready()
        eventually(caught_up(proving, agent), "the records after the kill", 20)
        assert proving.breaks(agent, "open", "explained", "resolved") == {}
        proving.tamper("UPDATE ledger.entry SET amount_minor = amount_minor + 1 WHERE lane = 1 AND seq = 3 AND leg = 0")
        eventually(lambda: [event["state"] for event in events(proving)] == ["open"], "the break on the topic", 15)
        proving.tamper("UPDATE ledger.entry SET amount_minor = amount_minor - 1 WHERE lane = 1 AND seq = 3 AND leg = 0")
        eventually(lambda: [event["state"] for event in events(proving)] == ["open", "resolved"], "its resolution", 15)
        assert {event["subject"] for event in events(proving)} == {"lane 1 seq 3"}
        # Wait longer than the watchdog's limit: an idle service has not stalled, even with markers at the topic's end.
        before = service.metric("ledgerline_agent_records_total")
        eventually(lambda: service.metric("process_cpu_seconds_total") > 0, "its metrics", 5)
        with pytest.raises(AssertionError):
            eventually(lambda: not service.runs(), "its end", 7)
        assert service.metric("ledgerline_agent_records_total") == before
        assert service.stop(15) in (0, -15)


def test_the_command_line_proves_and_finds(proving: ProvingBench, settings: Settings, tmp_path: Path) -> None:
    variables = environment(settings)
    busy(proving)
    witness = {"LEDGERLINE_AUDIT_WITNESS_FILE": str(tmp_path / "witness.jsonl")}
    with ServiceProcess("audit", settings, tmp_path, **QUICK, **witness) as service:
        service.wait_until_ready()
        eventually(lambda: bool(proving.rows("SELECT FROM audit.checkpoint")), "a checkpoint", 20)
        eventually((tmp_path / "witness.jsonl").exists, "the witness was told", 20)
    intent_id = records(proving)[3]["intent_id"]
    proof, public_key = tmp_path / "proof.json", tmp_path / "key.pem"
    run(variables, "audit", "prove", intent_id, "--out", str(proof))
    run(variables, "audit", "public-key", "--out", str(public_key))
    held = run_json(variables, "audit", "check", str(proof), "--public-key", str(public_key))
    assert (held["ok"], held["record"]["intent_id"]) == (True, intent_id)
    assert verifier_main([str(proof), "--public-key", str(public_key)]) == 0
    verify = ("audit", "verify", "--public-key", str(public_key), "--checkpoint", str(proof))
    assert run_json(variables | witness, *verify)["kept"] >= 2
    proof.write_text(proof.read_text().replace("posted", "postet"))
    (found,) = run_json(variables | witness, *verify, code=1)["breaks"]
    assert (found["kind"], found["subject"]) == ("checkpoint", "kept proof.json")
    (tmp_path / "other.json").write_text("{}")
    refused = run(variables, "audit", "verify", "--checkpoint", str(tmp_path / "other.json"), code=2).stderr
    assert "holds no checkpoint and no proof" in refused
    assert (
        "does not hold" in run(variables, "audit", "check", str(proof), "--public-key", str(public_key), code=1).stderr
    )
    assert run_json(variables, "reconcile")["breaks"] == []
    proving.tamper("UPDATE ledger.journal SET detail = 'x' WHERE lane = 1 AND seq = 2")
    found = run_json(variables, "audit", "verify", code=1)["breaks"]
    assert [(item["kind"], item["lane"], item["seq"]) for item in found] == [("stored", 1, 2)]
    assert "BREAK stored lane 1 seq 2" in run(variables, "audit", "verify", code=1).stdout
    proving.tamper("UPDATE ledger.balance SET debits_minor = debits_minor + 1 WHERE lane = 0 AND account_id = 1")
    assert [item["kind"] for item in run_json(variables, "reconcile", code=1)["breaks"]] == ["balance"]


def test_what_could_not_run_is_told_from_a_break(settings: Settings, tmp_path: Path) -> None:
    away = environment(settings) | {"LEDGERLINE_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none"}
    for command in (("reconcile",), ("audit", "verify")):
        assert run(away, *command, code=2).stderr.startswith("error: ")
    missing = run(away, "audit", "check", str(tmp_path / "none.json"), "--public-key", "none.pem", code=1)
    assert "does not hold" in missing.stderr
