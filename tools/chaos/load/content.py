"""The requests of the clients of a chaos run. The same seed gives the same requests, whatever the answers are."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from domain.intents import compute_intent_id

WALLETS: Final = 40
"""Accounts with a floor that all clients draw from. They are few, so that they run dry and lanes contend for locks."""

FUNDING_MINOR: Final = 2_000
AMOUNT_MINOR_MAX: Final = 500
BATCH_ITEMS_MAX: Final = 40
HOT_ACCOUNT: Final = "merchants:hot"
_RECENT: Final = 600
# A reversal of an intent that is not posted yet is refused. After so many more transfers, most intents are posted.
_REVERSED_AFTER: Final = 150
_BATCH_SHARE: Final = 0.3
_CURRENCIES: Final = ("EUR", "EUR", "EUR", "USD")


class Item(NamedTuple):
    """One intent as a client sends it."""

    kind: str
    """Such as transfer, reversal, duplicate; for counting and for tests."""
    idempotency_key: str
    body: bytes
    """JSON without the key, as POST /v1/intents takes it."""
    turn: int
    """Number of the intent's request. A duplicate or conflict has the next number, so another API process gets it."""

    @property
    def line(self) -> bytes:
        """The body as an item of a batch."""
        return b'{"idempotency_key":' + orjson.dumps(self.idempotency_key) + b"," + self.body[1:]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the body, the same for a single post and a batch."""
        return sha256(self.body).digest()


class Request(NamedTuple):
    """One POST of a single intent, or of a batch as JSON or NDJSON."""

    items: tuple[Item, ...]
    turn: int
    """The first API process to get the request is number `turn` modulo the number of processes."""
    is_batch: bool = False
    is_ndjson: bool = False


@dataclass(frozen=True)
class _Transfer:
    """An earlier transfer with its legs, which a reversal needs."""

    item: Item
    legs: list[dict[str, Any]]


class Content:
    """The endless requests of one client of a tenant. Not thread-safe."""

    def __init__(self, seed: int, client: int, clients: int, tenant: str) -> None:
        self._random = random.Random(f"{seed}/{client}")  # noqa: S311 - a repeatable load, no secret
        self._prefix = f"load-{seed}-{client}-"
        self._tenant = tenant
        self._number = 0
        self._turn = client
        self._recent: deque[Item] = deque(maxlen=_RECENT)
        self._transfers: deque[_Transfer] = deque(maxlen=_RECENT)
        self._reversed: deque[_Transfer] = deque(maxlen=20)
        self._funding = [f"users:{wallet}:wallet" for wallet in range(client, WALLETS, clients)]
        makers: tuple[tuple[int, Callable[[], Item]], ...] = (
            (22, self._deposit),
            (31, self._transfer),
            (14, self._purchase),
            (4, self._payout),
            (7, self._split),
            (9, self._reversal),
            (6, self._duplicate),
            (3, self._conflict),
            (2, self._unbalanced),
            (2, self._malformed),
        )
        self._weights = [weight for weight, _ in makers]
        self._makers = [make for _, make in makers]

    def next_request(self) -> Request:
        """Return the next request. The first one funds this client's share of the wallets."""
        self._turn += 1
        if self._funding:
            items = tuple(self._fund(account) for account in self._funding)
            self._funding = []
            return Request(items, self._turn, is_batch=True)
        if self._random.random() >= _BATCH_SHARE:
            item = self._next_item()
            return Request((item,), item.turn)
        count = self._random.randint(2, BATCH_ITEMS_MAX)
        is_ndjson = self._random.random() < 0.5
        items = tuple(self._next_item() for _ in range(count))
        return Request(items, self._turn, is_batch=True, is_ndjson=is_ndjson)

    def _next_item(self) -> Item:
        (make,) = self._random.choices(self._makers, self._weights)
        return make()

    # ------------------------------------------------------------------------------------------ kinds of intents

    def _fund(self, account: str) -> Item:
        legs = [
            leg
            for currency in sorted(set(_CURRENCIES))
            for leg in _pair("external:bank", account, FUNDING_MINOR, currency)
        ]
        return self._moves("funding", legs)

    def _deposit(self) -> Item:
        return self._moves("deposit", _pair("external:bank", self._wallet(), self._amount(), self._currency()))

    def _transfer(self) -> Item:
        payer, payee = self._two_wallets()
        return self._moves("transfer", _pair(payer, payee, self._amount(), self._currency()))

    def _purchase(self) -> Item:
        """Make a transfer from a wallet into the hot account, into which all clients pay."""
        return self._moves("purchase", _pair(self._wallet(), HOT_ACCOUNT, self._amount(), self._currency()))

    def _payout(self) -> Item:
        """Make a transfer out of the hot account."""
        return self._moves("payout", _pair(HOT_ACCOUNT, "external:bank", 3 * self._amount(), self._currency()))

    def _split(self) -> Item:
        """Make a transfer with two payers, so that one lane draws down an account that other lanes use."""
        first, second = self._two_wallets()
        amounts, currency = (self._amount(), self._amount()), self._currency()
        legs = [
            _leg(first, "debit", amounts[0], currency),
            _leg(second, "debit", amounts[1], currency),
            _leg(HOT_ACCOUNT, "credit", sum(amounts), currency),
        ]
        return self._moves("split", legs)

    def _reversal(self) -> Item:
        """Make a reversal of an earlier transfer, whole or in part; sometimes of one that was reversed before."""
        if self._reversed and self._random.random() < 0.25:
            original = self._random.choice(self._reversed)
        elif len(self._transfers) > _REVERSED_AFTER:
            original = self._transfers[self._random.randrange(len(self._transfers) - _REVERSED_AFTER)]
        else:
            return self._deposit()
        self._reversed.append(original)
        body: dict[str, Any] = {"type": "reversal", "reverses": self._id_of(original.item)}
        if self._random.random() < 0.5:
            part = self._random.randint(1, original.legs[0]["amount_minor"])
            body["legs"] = [
                leg | {"direction": "credit" if leg["direction"] == "debit" else "debit", "amount_minor": part}
                for leg in original.legs
            ]
        return self._new("reversal", body)

    def _duplicate(self) -> Item:
        """Repeat an earlier key and body at another API process."""
        if not self._recent:
            return self._deposit()
        first = self._random.choice(self._recent)
        return first._replace(kind="duplicate", turn=first.turn + 1)

    def _conflict(self) -> Item:
        """Use the key of an earlier intent with another body."""
        if not self._recent:
            return self._deposit()
        first = self._random.choice(self._recent)
        legs = _pair("external:bank", self._wallet(), self._amount(), self._currency())
        body = orjson.dumps({"type": "transfer", "legs": legs, "reference": "another body under a used key"})
        return Item("conflict", first.idempotency_key, body, first.turn + 1)

    def _unbalanced(self) -> Item:
        legs = _pair(self._wallet(), HOT_ACCOUNT, self._amount(), self._currency())
        legs[0]["amount_minor"] += 1
        return self._new("unbalanced", {"type": "transfer", "legs": legs})

    def _malformed(self) -> Item:
        """Make an intent that the API refuses, so that it never reaches Kafka."""
        legs = _pair(self._wallet(), HOT_ACCOUNT, self._amount(), self._currency())
        bodies: tuple[dict[str, Any], ...] = (
            {"type": "transfer"},
            {"type": "transfer", "legs": legs[:1]},
            {"type": "refund", "legs": legs},
            {"type": "transfer", "legs": legs, "amount": 12.5},
            {"type": "transfer", "legs": [legs[0] | {"amount_minor": "1"}, legs[1]]},
            {"type": "transfer", "legs": [legs[0] | {"amount_minor": -1}, legs[1]]},
            {"type": "reversal"},
        )
        return self._new("malformed", self._random.choice(bodies))

    # ------------------------------------------------------------------------------------------ parts of them

    def _moves(self, kind: str, legs: list[dict[str, Any]]) -> Item:
        """Make a transfer that later intents may repeat, conflict with or, if it has two legs, reverse."""
        item = self._new(kind, {"type": "transfer", "legs": legs, "reference": f"{kind} {self._number}"})
        self._recent.append(item)
        if len(legs) == 2:
            self._transfers.append(_Transfer(item, legs))
        return item

    def _new(self, kind: str, body: dict[str, Any]) -> Item:
        self._number += 1
        return Item(kind, f"{self._prefix}{self._number}", orjson.dumps(body), self._turn)

    def _id_of(self, item: Item) -> str:
        return str(compute_intent_id(self._tenant, item.idempotency_key))

    def _wallet(self) -> str:
        return f"users:{self._random.randrange(WALLETS)}:wallet"

    def _two_wallets(self) -> tuple[str, str]:
        first, second = self._random.sample(range(WALLETS), 2)
        return f"users:{first}:wallet", f"users:{second}:wallet"

    def _amount(self) -> int:
        return self._random.randint(1, AMOUNT_MINOR_MAX)

    def _currency(self) -> str:
        return self._random.choice(_CURRENCIES)


def _leg(account: str, direction: str, amount_minor: int, currency: str) -> dict[str, Any]:
    return {"account": account, "direction": direction, "amount_minor": amount_minor, "currency": currency}


def _pair(debited: str, credited: str, amount_minor: int, currency: str) -> list[dict[str, Any]]:
    return [_leg(debited, "debit", amount_minor, currency), _leg(credited, "credit", amount_minor, currency)]
