"""`ledgerline audit`: verify the hash chains, make and check proofs, make and show the signing key."""

import json
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.context import find_running_ledger, read_settings
from cli.output import Json, complain, say, show_json, show_rows, show_text
from cli.recomputing import BREAKS_FOUND, exit_code_for_outages, make_findings_json, open_progress, show_findings
from db.proofs import prove as prove_intent
from domain.checkpoints import make_public_pem
from domain.errors import LedgerlineError
from domain.topics import Topics
from runtime.key_files import make_key, read_key, read_public_keys
from runtime.key_names import POSTING_KEY_FILE, get_public_file
from streams.proof.audit import receipts, verifier
from streams.proof.audit.full import Report
from streams.proof.audit.full import verify as verify_all
from streams.proof.audit.kept import read_kept
from streams.proof.audit.service import get_key_file
from streams.proof.audit.signatures import read_posting_keys
from streams.proof.audit.witness import make_witnesses

app = typer.Typer(help="Verify the hash chains; prove that an intent is in the ledger.", no_args_is_help=True)

PublicKey = Annotated[Path | None, typer.Option("--public-key", help="PEM file of the Ed25519 public key.")]
KeptFiles = Annotated[
    list[Path] | None,
    typer.Option("--checkpoint", metavar="FILE", help="A checkpoint or proof that you kept; repeat it for more."),
]

_STEPS = {"topic": "records of the topic", "tables": "rows of the tables", "checkpoints": "checkpoints"}


@app.command()
def verify(public_key: PublicKey = None, checkpoint: KeptFiles = None, as_json: Json = False) -> None:
    """Recompute every hash chain from the topic and from the tables, and check every checkpoint.

    Name each altered (lane, seq). Exit code 0: all held; 1: breaks were found; 2: the check could not run. Without a
    public key the command uses audit's own keys, which are in the same database as the checkpoints. It also compares
    the checkpoints and proofs that you kept, and the configured witnesses, with today's ledger.
    """
    with exit_code_for_outages():
        kept = [read_kept(path) for path in checkpoint or ()]
        ledger = find_running_ledger()
        raw = None if public_key is None else _read_raw_public_key(public_key)
        with open_progress(_STEPS, quiet=as_json) as progress:
            report = verify_all(
                kafka=ledger.kafka,
                dsn=ledger.postgres_dsn,
                registry=ledger.registry,
                topics=Topics(ledger.settings.topic_prefix),
                public_key=raw,
                kept=kept,
                witnesses=make_witnesses(ledger.settings),
                posting_keys=read_posting_keys(ledger.settings),
                progress=progress,
            )
    if as_json:
        show_json(make_report_json(report))
    else:
        _show(report)
    if report.findings:
        raise typer.Exit(BREAKS_FOUND)


def make_report_json(report: Report) -> dict[str, Any]:
    """Return the report for machines."""
    return {
        "ok": not report.findings,
        "records": report.records,
        "checkpoints": report.checkpoints,
        "kept": report.kept,
        "seconds": round(report.seconds, 3),
        "records_per_second": report.records_per_second,
        "lanes": report.lanes,
        "breaks": make_findings_json(report.findings),
    }


def _show(report: Report) -> None:
    show_rows("Chains, as recomputed", report.lanes, as_json=False)
    show_findings(report.findings)
    verdict = "[bold green]Every chain holds.[/]" if not report.findings else "[bold red]Something was altered.[/]"
    say(
        f" {report.records:,} records on the topic and in the tables, {report.checkpoints:,} checkpoints,"
        f" {report.kept:,} kept outside,"
        f" in {report.seconds:.1f} s ({report.records_per_second:,} records/s); {len(report.findings)} breaks.",
        verdict,
    )


@app.command()
def prove(
    intent: Annotated[uuid.UUID, typer.Argument(help="The intent's id.")],
    tenant: Annotated[str | None, typer.Option(help="The intent's tenant, if several tenants have the id.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the proof; standard output if left out.")] = None,
) -> None:
    """Prove that a signed checkpoint covers the record that settled an intent.

    Anyone can check the proof with only the public key: see docs/PROOF.md.
    """
    proof = prove_intent(find_running_ledger().postgres_dsn, str(intent), tenant)
    if out is None:
        show_json(proof)
        return
    try:
        out.write_text(json.dumps(proof, ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        raise LedgerlineError(f"The proof cannot be written to {out}: {error.strerror}.") from error
    record = proof["record"]
    say(f"Proof of lane {record['lane']} seq {record['seq']} written to {out}.")


@app.command()
def check(
    proof: Annotated[Path, typer.Argument(help="A proof that `audit prove` made.")],
    public_key: Annotated[Path, typer.Option("--public-key", help="PEM file of the Ed25519 public key.")],
    as_json: Json = False,
) -> None:
    """Check a proof with the public key alone. Exit code 0: it holds; 1: it does not."""
    try:
        record = verifier.verify(verifier.read_proof(proof), verifier.read_public_key(public_key))
    except verifier.Refused as refused:
        if as_json:
            show_json({"ok": False, "refused": str(refused)})
            raise typer.Exit(BREAKS_FOUND) from refused
        raise LedgerlineError(f"The proof does not hold. {refused}") from refused
    if as_json:
        show_json({"ok": True, "record": record})
    else:
        say(
            f" intent {record['intent_id']} is {record['outcome']} at lane {record['lane']} seq {record['seq']}.",
            "[bold green]The proof holds:[/]",
        )


@app.command("receipt")
def receipt_command(
    receipt: Annotated[Path, typer.Argument(help="A receipt, as GET /v1/intents/{intent_id}/receipt gave it.")],
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", help="PEM file of posting's public keys; by default the configured one."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check it with only the key, not against the ledger.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a receipt by posting's signature, and against today's ledger.

    Exit code 0: it holds; 1: it does not, or the ledger has something else; 2: the check could not run, or
    audit has not read the record yet.
    """
    with exit_code_for_outages():
        keys = read_public_keys(public_key or _find_posting_public_keys())
        faults, published = [], True
        record = {}
        try:
            found = verifier.read_proof(receipt)
            record = receipts.check_receipt(found, keys)
        except verifier.Refused as refused:
            faults = [str(refused)]
        if not faults and not offline:
            faults, published = receipts.hold_against(find_running_ledger().postgres_dsn, found)
        if not faults and not published:
            raise LedgerlineError("The receipt is sound, but audit has not met its record yet: ask again.")
    if as_json:
        show_json({"ok": not faults, "faults": faults, "record": record or None})
    elif faults:
        complain(" ".join(faults), "[bold red]The receipt does not hold.[/] ")
    else:
        where = "" if offline else ", and so the ledger has it today"
        sentence = f"intent {record['intent_id']} is {record['outcome']} at lane {record['lane']} seq {record['seq']}"
        say(f"{sentence}{where}.", "[bold green]The receipt holds:[/] ")
    if faults:
        raise typer.Exit(BREAKS_FOUND)


def _find_posting_public_keys() -> Path:
    settings = read_settings()
    return settings.posting_public_keys_file or get_public_file(settings.home / POSTING_KEY_FILE)


@app.command()
def keygen(
    file: Annotated[Path | None, typer.Option(help="File for the private key; by default the configured one.")] = None,
    as_json: Json = False,
) -> None:
    """Make a signing key pair: the private key readable by its owner only, the public key beside it."""
    path = file or get_key_file(read_settings())
    key = make_key(path)
    if as_json:
        show_json({"key_id": key.key_id, "private_key": str(path), "public_key": str(get_public_file(path))})
    else:
        say(f"Made key {key.key_id}: {path}, and for the public {get_public_file(path)}.")


@app.command("public-key")
def public_key_command(
    out: Annotated[Path | None, typer.Option(help="File for the key; standard output if left out.")] = None,
) -> None:
    """Print the public key, in PEM, for those who check proofs."""
    pem = make_public_pem(read_key(get_key_file(read_settings())).public_raw)
    if out is None:
        show_text(pem.decode())
        return
    try:
        out.write_bytes(pem)
    except OSError as error:
        raise LedgerlineError(f"The key cannot be written to {out}: {error.strerror}.") from error


def _read_raw_public_key(path: Path) -> bytes:
    try:
        return verifier.decode_raw_key(verifier.read_public_key(path))
    except verifier.Refused as refused:
        raise LedgerlineError(str(refused)) from refused
