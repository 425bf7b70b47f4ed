"""The browser judges each proof as the verifier does, whatever was changed in it, and shows a false proof as false."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from playwright.sync_api import Page, Route, expect

from domain.checkpoints import make_public_pem
from streams.proof.audit.verifier import Refused, verify
from tests.console.console_bench import ConsoleBench
from tests.integration.test_reconciliation import busy

VERIFY = """async ({texts, expected, pem}) => {
    const {verify} = await import("/console/assets/proof.js");
    const found = [];
    for (const text of texts) found.push(await verify(text, expected, [{pem, source: "the test's"}]));
    return found.map(({holds, steps}) => ({holds, states: steps.map((step) => step.state)}));
}"""


@pytest.fixture(scope="module")
def proof(console: ConsoleBench) -> dict[str, Any]:
    """A valid proof with paths of some length."""
    busy(console.ledger)
    console.prove()
    intent_id = console.ledger.rows("SELECT intent_id FROM ledger.journal WHERE lane = 0 AND seq = 3")[0]["intent_id"]
    found: dict[str, Any] = console.get(f"/v1/intents/{intent_id}/proof")
    assert len(found["records"]["path"]) > 2
    return found


def judged(page: Page, console: ConsoleBench, texts: list[str], proof: dict[str, Any], pem: str | None = None) -> Any:
    """Return the browser's verdict on each text: whether it holds, and the state of each step."""
    expected = {"intentId": proof["record"]["intent_id"], "hash": proof["hash"]}
    key = pem or console.get("/v1/signing-keys")["items"][0]["public_key"]
    return page.evaluate(VERIFY, {"texts": texts, "expected": expected, "pem": key})


def changed(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield (where, another value) for each leaf of a proof."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from changed(part, (*path, name))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from changed(part, (*path, place))
    elif isinstance(value, str):
        yield path, ("0" if value[:1] != "0" else "1") + value[1:]
        if value != value.upper():
            yield path, value.upper()
    elif isinstance(value, int):
        yield path, value + 1
        yield path, -value - 1
    else:
        yield path, "something"


def mutants(proof: dict[str, Any]) -> Iterator[str]:
    """Yield the proof with each leaf changed, with each member removed, and with one member too many at each place."""
    for path, other in changed(proof):
        mutant = copy.deepcopy(proof)
        holder: Any = mutant
        for name in path[:-1]:
            holder = holder[name]
        holder[path[-1]] = other
        yield json.dumps(mutant)
    for name, part in proof.items():
        yield json.dumps({key: value for key, value in proof.items() if key != name})
        yield json.dumps(proof | {name: None})
        if isinstance(part, dict):
            yield json.dumps(proof | {name: part | {"more": 1}})
            yield json.dumps(proof | {name: dict(list(part.items())[1:])})
    for tree in ("records", "lanes"):
        path = proof[tree]["path"]
        yield json.dumps(proof | {tree: proof[tree] | {"path": path[:-1]}})
        yield json.dumps(proof | {tree: proof[tree] | {"path": [*path, proof["hash"]]}})
        yield json.dumps(proof | {tree: proof[tree] | {"path": path[::-1] if len(path) > 1 else []}})


def test_a_proof_whose_any_part_was_changed_is_refused_as_the_verifier_does(
    console: ConsoleBench, proof: dict[str, Any]
) -> None:
    key = load_pem_public_key(console.get("/v1/signing-keys")["items"][0]["public_key"].encode())
    assert isinstance(key, Ed25519PublicKey)
    texts = list(mutants(proof))
    assert len(texts) > 90
    for text in texts:
        with pytest.raises(Refused):
            verify(json.loads(text), key)
    with console.page(wait_live=False) as page:
        (sound,) = judged(page, console, [json.dumps(proof)], proof)
        assert (sound["holds"], set(sound["states"])) == (True, {"ok"})
        found = judged(page, console, texts, proof)
    judgements = zip(texts, found, strict=True)
    assert [text for text, verdict in judgements if verdict["holds"] or "bad" not in verdict["states"]] == []


def test_each_lie_is_shown_at_the_step_that_finds_it(console: ConsoleBench, proof: dict[str, Any]) -> None:
    record, checkpoint, records = proof["record"], proof["checkpoint"], proof["records"]
    lies = {
        "no JSON": ("{", 0),
        "another format": (json.dumps(proof | {"format": "ledgerline-proof-2"}), 0),
        "a member twice": (json.dumps(proof)[:-1] + f', "hash": "{proof["hash"]}"}}', 0),
        "another intent": (json.dumps(proof | {"record": record | {"intent_id": "x"}}), 1),
        "another amount": (json.dumps(proof | {"record": record | {"legs": []}}), 2),
        "another place": (json.dumps(proof | {"records": records | {"index": 0}}), 3),
        "another path": (json.dumps(proof | {"records": records | {"path": records["path"][::-1]}}), 4),
        "another head": (json.dumps(proof | {"lane": proof["lane"] | {"head": "00" * 32}}), 5),
        "another time": (json.dumps(proof | {"checkpoint": checkpoint | {"signed_time": 1}}), 6),
    }
    with console.page(wait_live=False) as page:
        found = judged(page, console, [text for text, _ in lies.values()], proof)
        first_bad = {name: verdict["states"].index("bad") for name, verdict in zip(lies, found, strict=True)}
        assert first_bad == {name: place for name, (_, place) in lies.items()}
        stranger = make_public_pem(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
        (by_another,) = judged(page, console, [json.dumps(proof)], proof, stranger)
        assert by_another["states"] == ["ok"] * 6 + ["bad"]


def test_texts_and_numbers_have_the_canonical_form_of_the_standard(console: ConsoleBench) -> None:
    import rfc8785

    values = [
        {"b": 1, "a": [True, None, '€ 💸 \u2028 \x00 \x1f " \\ / \x7f'], "\U0001f600": 1, "\ufb33": 2, "A": {}},
        {"9007199254740991": 9007199254740991, "-": -5, "": ""},
    ]
    with console.page(wait_live=False) as page:
        found = page.evaluate(
            """async (values) => {
                const {canonical} = await import("/console/assets/proof.js");
                return values.map(canonical);
            }""",
            values,
        )
    assert [text.encode() for text in found] == [rfc8785.dumps(value) for value in values]


def test_a_tampered_proof_is_shown_as_failing(console: ConsoleBench, proof: dict[str, Any]) -> None:
    record = proof["record"]
    amount = str(int(record["legs"][0]["amount_minor"]) + 1)
    legs = [leg | {"amount_minor": amount} for leg in record["legs"]]
    forged = json.dumps(proof | {"record": record | {"legs": legs}})

    def forge(route: Route) -> None:
        route.fulfill(status=200, content_type="application/json", body=forged)

    with console.page() as page:
        page.route("**/proof", forge)
        page.evaluate("hash => { location.hash = hash }", f"#/follow/{record['intent_id']}")
        step = page.locator("[data-step=proof]")
        expect(step).to_have_attribute("data-state", "bad")
        expect(step).to_contain_text("The proof does not hold")
        expect(step.locator(".checks li[data-state=bad]")).to_contain_text("The record and the hash before it")
        page.unroute("**/proof")
        page.reload()
        expect(step).to_have_attribute("data-state", "ok")


def test_an_altered_row_is_shown_to_have_no_proof(console: ConsoleBench, proof: dict[str, Any]) -> None:
    lane, seq = proof["record"]["lane"], proof["record"]["seq"]
    console.ledger.tamper("UPDATE ledger.journal SET reference = 'x' WHERE lane = %s AND seq = %s", lane, seq)
    try:
        with console.page(f"follow/{proof['record']['intent_id']}") as page:
            step = page.locator("[data-step=proof]")
            expect(step).to_have_attribute("data-state", "bad")
            expect(step).to_contain_text("is not what was published")
    finally:
        console.ledger.tamper("UPDATE ledger.journal SET reference = NULL WHERE lane = %s AND seq = %s", lane, seq)
