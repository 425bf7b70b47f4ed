"""Fingerprints of all schemas that Ledgerline ever had, so that a stranger's schema in the registry blocks no deploy.

The commit that changes a schema adds the new fingerprint to the list. No fingerprint is ever removed.
"""

import json
from hashlib import sha256
from typing import Final

from domain.topics import SUBJECTS
from producers.schema_rules import find_invalidity
from runtime.schemas import SchemaError, read_schema_text

PUBLISHED: Final = frozenset(
    {
        # payments.intents-value
        "b2082cfb5a1b4a1d7a61022a6061dd3e6b6aff8443de6a5c51f1c569468e1816",
        "b5d91f68d4fb12aaa878d57be1e75bfafcb5d45e2c482f18ae746eae9d0625a4",
        # payments.quarantine-value
        "6d1eef08fdd877312eed00a80f78205040d5bb05788f99c4efd7bbfc9226347e",
        # ledger.journal-value
        "38386d87e1ca058ddd07825d3acd0454f0614f03451fb37f5d81ec38403140cc",
        "c074b8de419b8ebb620a297b8512924e190bb19630687f85ea30eec0d03c46e4",
        # ledger.frame-value
        "8226d14e9a4522fedbbd9e2b24dd3825bdfd502a7965fd424ca6a078fc2aa8d0",
        # ledger.relay-value
        "570a7b90280f82ec17e33a589bce04587987b61ff21ad28f647f29f177adf099",
        # ledger.breaks-value
        "ce62bf7d870890ac3f146fc7c9ff6152b7220e9773f501987fab9484aeecd3f5",
        "3350690dc53f2b3a5d47b7c7802e790d73036b65c74fe7ad992ff5b86e5a90ed",
        # audit.checkpoints-value
        "adbd62d7b9d88d530f18438c488a522eb9e53bac390a9044fee0e25bcd58978e",
        # schedule.events-ledgerline.schedule.ScheduleCreated
        "4cf1e126f1abab8810be672f2ee718346af4387ce025158e7a6767a61c51d7cc",
        # schedule.events-ledgerline.schedule.ScheduleChanged
        "9060e05d304f3c9065fd9bd991d8634d676d24a2d75658d059f4b5f7145e700c",
        # schedule.events-ledgerline.schedule.SchedulePaused
        "13497551d748d6e5f1263ffea0083441b4ebd5a4de21b5bd702e2bc7d337b1d0",
        # schedule.events-ledgerline.schedule.ScheduleResumed
        "85fbe7c12ec805709dde43565af5e9f5d60419bc16a2074464125f52f2f58b9f",
        # schedule.events-ledgerline.schedule.ScheduleEnded
        "eecc932305569821e60bb2b7e02e9ec913883a7b8848bd87b3e0fe339b9fa400",
        # schedule.events-ledgerline.schedule.OccurrenceSent
        "f558f42aec4c54f00622d6696f1cc84a17b41fb8d389db9fc7c26a7b73b4e953",
        # schedule.events-ledgerline.schedule.OccurrencePosted
        "c5856405ced3bbe67921d941f94139a21e6affac0f1f2307d6bc1e728809514d",
        # schedule.events-ledgerline.schedule.OccurrenceRefused
        "f0f91f759f7ec4ac142b3d458de18ffae0b23e6fb1d4d1cb2dae3a2cd07d9bad",
        # schedule.events-ledgerline.schedule.OccurrenceSkipped
        "756ccf7c3f6d0903fe574b48e1d63b3dbe7f46dbdf4102501d1289ed541e7a57",
        # notification.events-ledgerline.notification.WebhookDisabled
        "ea02eb466bfbfd04beaa336af60cd4ff3d1cf816320eab7597edea5bcf2a4794",
    }
)


def compute_schema_fingerprint(text: str) -> str:
    """Return the SHA-256 of a schema in hex. White space and the order of members in its text do not matter."""
    return sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


def is_published(text: str) -> bool:
    """Return whether a schema is, or once was, Ledgerline's own."""
    return compute_schema_fingerprint(text) in PUBLISHED


def refuse_invalid(subject: str) -> None:
    """Raise SchemaError if the file of a subject is no valid schema."""
    wrong = find_invalidity(read_schema_text(subject))
    if wrong is not None:
        raise SchemaError(f"avro/{SUBJECTS[subject][0]} cannot be registered: {wrong}.")
