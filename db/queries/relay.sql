-- What the relay reads of the journal.

-- name: lanes
-- The lanes of a shard, and how far each is posted.
SELECT lane, next_seq, booked_time
FROM ledger.lane
WHERE lane %% %(shards)s = %(shard)s
ORDER BY lane

-- name: records
-- Journal rows of a lane from a sequence number on, with the raw bytes of those in quarantine.
SELECT
    j.lane, j.seq, j.previous_hash, j.hash, j.outcome, j.reason, j.detail, j.tenant, j.intent_id::text AS intent_id,
    j.idempotency_key, j.fingerprint, j.type, j.reverses::text AS reverses, j.reference, j.metadata,
    j.source_topic, j.source_offset, j.value_time, j.booked_time,
    q.key AS raw_key, q.value AS raw_value, q.headers AS raw_headers
FROM ledger.journal AS j
LEFT JOIN ledger.quarantine AS q ON q.lane = j.lane AND q.seq = j.seq
WHERE j.lane = %(lane)s AND j.seq >= %(first_seq)s AND j.seq < %(first_seq)s + %(records_max)s
ORDER BY j.seq

-- name: legs
-- The legs of the same rows.
SELECT e.seq, a.address, e.direction, e.amount_minor, e.currency
FROM ledger.entry AS e
INNER JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE e.lane = %(lane)s AND e.seq >= %(first_seq)s AND e.seq < %(first_seq)s + %(records_max)s
ORDER BY e.seq, e.leg

-- name: listen
-- To be woken by each posting transaction.
LISTEN ledgerline_posted
