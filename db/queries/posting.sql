-- The posting transaction, in the order of its steps (docs/ARCHITECTURE.md).

-- name: make_lane
-- Inserts a new lane; it begins at the first offset that its topic still has.
INSERT INTO ledger.lane (lane, topic, topic_id, first_offset, next_offset)
VALUES (%(lane)s, %(topic)s, %(topic_id)s, %(first_offset)s, %(first_offset)s)
ON CONFLICT (lane) DO NOTHING

-- name: lanes
-- The positions of lanes, without a lock.
SELECT lane, topic, topic_id, next_offset, next_seq, head, booked_time
FROM ledger.lane
WHERE lane = ANY(%(lanes)s::integer [])
ORDER BY lane

-- name: lock_lanes
-- The fence: only one writer can hold a lane. Lanes are locked in order, so that workers do not deadlock.
SELECT lane, topic, topic_id, next_offset, next_seq, head, booked_time
FROM ledger.lane
WHERE lane = ANY(%(lanes)s::integer [])
ORDER BY lane
FOR NO KEY UPDATE

-- name: row_hash
-- The hash of one journal row, for a comparison with the published record.
SELECT hash FROM ledger.journal WHERE lane = %(lane)s AND seq = %(seq)s

-- name: books_version
-- The current version of the books, which tells whether the worker's copy is up to date.
SELECT version
FROM ledger.books_version

-- name: settled
-- The fingerprints of those intents of the batch that were settled before. An intent id belongs to one tenant only, so
-- the join needs no tenant.
SELECT asked.tenant, asked.intent_id, j.fingerprint
FROM unnest(%(tenants)s::text [], %(intent_ids)s::uuid []) AS asked (tenant, intent_id)
INNER JOIN ledger.journal AS j ON j.intent_id = asked.intent_id
WHERE j.outcome IN ('posted', 'rejected')

-- name: lock_originals
-- Makes reversals of one original wait for each other. There are 1024 locks, each for a bucket of originals, so that a
-- batch holds few locks.
SELECT pg_advisory_xact_lock(1279544146, bucket)
FROM (
    SELECT DISTINCT abs(hashtext(named.intent_id::text) %% 1024) AS bucket
    FROM unnest(%(intent_ids)s::uuid []) AS named (intent_id)
    ORDER BY bucket
) AS buckets

-- name: originals
-- The settled intents that the batch's reversals name.
SELECT j.tenant, j.intent_id, j.outcome, j.type
FROM unnest(%(tenants)s::text [], %(intent_ids)s::uuid []) AS asked (tenant, intent_id)
INNER JOIN ledger.journal AS j
    ON j.tenant = asked.tenant AND j.intent_id = asked.intent_id
WHERE j.outcome IN ('posted', 'rejected')

-- name: original_legs
-- The legs of the originals, in order.
SELECT j.tenant, j.intent_id, a.address, e.direction, e.amount_minor, e.currency
FROM unnest(%(tenants)s::text [], %(intent_ids)s::uuid []) AS asked (tenant, intent_id)
INNER JOIN ledger.journal AS j
    ON j.tenant = asked.tenant AND j.intent_id = asked.intent_id
CROSS JOIN LATERAL ledger.legs(j.lane, j.seq) AS e
INNER JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE j.outcome = 'posted'
ORDER BY j.tenant, j.intent_id, e.leg

-- name: reversed_so_far
-- The amounts that earlier reversals of the originals took back; direction is that of the original's leg.
SELECT j.tenant, j.reverses, a.address, -e.direction AS direction, e.currency, sum(e.amount_minor)::bigint AS amount
FROM unnest(%(tenants)s::text [], %(intent_ids)s::uuid []) AS asked (tenant, intent_id)
INNER JOIN ledger.journal AS j
    ON j.tenant = asked.tenant AND j.reverses = asked.intent_id
CROSS JOIN LATERAL ledger.legs(j.lane, j.seq) AS e
INNER JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE j.outcome = 'posted'
GROUP BY j.tenant, j.reverses, a.address, e.direction, e.currency

-- name: accounts
-- The accounts of the batch that are open already.
SELECT a.account_id, a.tenant, a.address, a.normal_direction, a.floor_minor
FROM unnest(%(tenants)s::text [], %(addresses)s::text []) AS asked (tenant, address)
INNER JOIN ledger.account AS a
    ON a.tenant = asked.tenant AND a.address = asked.address

-- name: name_chain
-- Sets the chain of facts in which the trigger records the accounts that this transaction opens.
SELECT set_config('ledgerline.chain', %(chain)s::text, TRUE)

-- name: open_accounts
-- Opens accounts in sorted order, so that two lanes that open the same accounts do not deadlock.
INSERT INTO ledger.account (tenant, address, account_class, normal_direction, floor_minor)
SELECT wanted.tenant, wanted.address, wanted.account_class, wanted.normal_direction, wanted.floor_minor
FROM unnest(
    %(tenants)s::text [], %(addresses)s::text [], %(account_classes)s::text [],
    %(normal_directions)s::smallint [], %(floors_minor)s::bigint []
) AS wanted (tenant, address, account_class, normal_direction, floor_minor)
ORDER BY wanted.tenant, wanted.address
ON CONFLICT (tenant, address) DO NOTHING

-- name: lock_accounts
-- Locks the constrained accounts that the batch draws down, in order of id. The count spares the worker a row for each.
SELECT count(*)
FROM (
    SELECT account_id
    FROM ledger.account
    WHERE account_id = ANY(%(account_ids)s::bigint [])
    ORDER BY account_id
    FOR NO KEY UPDATE
) AS locked

-- name: balances
-- Debits less credits over all lanes. This is a separate statement after the locks, so that it sees the commits for
-- which the locks waited. Python reads a whole number from a text faster than from a numeric.
SELECT account_id, currency, (sum(debits_minor) - sum(credits_minor))::text AS balance
FROM ledger.balance
WHERE account_id = ANY(%(account_ids)s::bigint [])
GROUP BY account_id, currency

-- name: copy_journal
-- The batch's journal rows.
COPY ledger.journal (
    lane, seq, outcome, reason, detail, tenant, intent_id, idempotency_key, fingerprint, type, reverses, reference,
    value_time, booked_time, hash, leg_count, metadata
) FROM STDIN (FORMAT BINARY)

-- name: copy_entries
-- The batch's entries; the trigger entry_balances checks them at the end of the statement.
COPY ledger.entry (lane, seq, leg, account_id, direction, amount_minor, currency) FROM STDIN (FORMAT BINARY)

-- name: add_balances
-- Adds the batch's changes to the balances, one row for each shard.
INSERT INTO ledger.balance (account_id, currency, lane, debits_minor, credits_minor, seq)
SELECT account_id, currency, lane::integer, debits_minor, credits_minor, seq
FROM unnest(
    %(account_ids)s::bigint [], %(currencies)s::text [], %(lanes)s::bigint [],
    %(debits_minor)s::numeric [], %(credits_minor)s::numeric [], %(seqs)s::bigint []
) AS change (account_id, currency, lane, debits_minor, credits_minor, seq)
ON CONFLICT (account_id, currency, lane) DO UPDATE SET
    debits_minor = balance.debits_minor + excluded.debits_minor,
    credits_minor = balance.credits_minor + excluded.credits_minor,
    seq = excluded.seq

-- name: add_quarantine
-- Stores the raw bytes behind a quarantined row.
INSERT INTO ledger.quarantine (lane, seq, key, value, headers)
VALUES (%(lane)s, %(seq)s, %(key)s, %(value)s, %(headers)s)

-- name: advance_lane
-- The last step before the commit: offset, seq and head move in the transaction that writes the rows.
UPDATE ledger.lane
SET next_offset = %(next_offset)s, next_seq = %(next_seq)s, head = %(head)s, booked_time = %(booked_time)s
WHERE lane = %(lane)s

-- name: advance_signed_lane
-- The same, and stores posting's signature over the batch, so that no head moves without its signature.
WITH signed AS (
    INSERT INTO ledger.signed_head (lane, next_seq, first_seq, signature)
    VALUES (%(lane)s, %(next_seq)s, %(first_seq)s, %(signature)s)
)

UPDATE ledger.lane
SET next_offset = %(next_offset)s, next_seq = %(next_seq)s, head = %(head)s, booked_time = %(booked_time)s
WHERE lane = %(lane)s

-- name: notify
-- Wakes the relay and the waiting requests of the API at commit; payload: lane:next_offset, comma separated.
SELECT pg_notify('ledgerline_posted', %(payload)s)

-- name: notify_traced
-- Notifies relays that trace of a traced batch; payload: traceparent, one space, lane:next_seq comma separated.
SELECT pg_notify('ledgerline_traced', %(payload)s)
