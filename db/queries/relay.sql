-- The relay's queries of the journal.

-- name: lanes
-- The next seq of each lane of an instance, and of the lanes' chains of facts, which have numbers below 0.
SELECT lane, next_seq, booked_time
FROM ledger.lane
WHERE lane %% %(instances)s = %(instance)s
UNION ALL
SELECT chain AS lane, next_seq, booked_time
FROM ledger.fact_chain
WHERE CASE chain WHEN -1 THEN 0 ELSE (-2 - chain) %% %(instances)s END = %(instance)s
ORDER BY lane

-- name: facts
-- Facts of a chain from a seq on; previous_hash is correct only for the first fact.
SELECT
    f.chain, f.seq, f.part, f.change, f.tenant, f.name, f.account_class,
    CASE f.normal_direction WHEN 1 THEN 'debit' WHEN -1 THEN 'credit' END AS normal_side,
    f.floor_minor, f.currencies, f.exponent, f.title, f.made_time, f.author, f.booked_time, f.hash,
    coalesce(
        (SELECT b.hash FROM ledger.fact AS b WHERE b.chain = %(chain)s AND b.seq = %(first_seq)s::bigint - 1),
        decode(repeat('00', 32), 'hex')
    ) AS previous_hash
FROM ledger.fact AS f
WHERE f.chain = %(chain)s AND f.seq >= %(first_seq)s AND f.seq < %(first_seq)s::bigint + %(facts_max)s
ORDER BY f.seq

-- name: records
-- Journal rows of a lane from a seq on, with the raw bytes of quarantined rows. The rows end where these bytes exceed
-- raw_bytes_max, but there is at least one. previous_hash is the hash of the row before, or 32 zero bytes if there is
-- none. The signature columns are null here: the query signed_heads gives them.
SELECT
    null::bigint AS signed_from, null::bytea AS signature,
    lane, seq, previous_hash, hash, outcome, reason, detail, tenant, intent_id::text AS intent_id, idempotency_key,
    fingerprint, type, reverses::text AS reverses, reference, metadata, source_topic, source_offset, value_time,
    booked_time, raw_key, raw_value, raw_headers
FROM (
    SELECT
        j.*,
        (SELECT l.topic FROM ledger.lane AS l WHERE l.lane = %(lane)s) AS source_topic,
        (SELECT l.first_offset FROM ledger.lane AS l WHERE l.lane = %(lane)s) + j.seq AS source_offset,
        CASE lag(j.seq) OVER (ORDER BY j.seq)
            WHEN j.seq - 1 THEN lag(j.hash) OVER (ORDER BY j.seq) ELSE decode(repeat('00', 32), 'hex')
        END AS previous_hash,
        q.key AS raw_key, q.value AS raw_value, q.headers AS raw_headers,
        coalesce(octet_length(q.key), 0) + coalesce(octet_length(q.value), 0) AS raw_bytes,
        sum(coalesce(octet_length(q.key), 0) + coalesce(octet_length(q.value), 0)) OVER (ORDER BY j.seq)
        AS raw_bytes_so_far
    FROM ledger.journal AS j
    LEFT JOIN ledger.quarantine AS q ON q.lane = j.lane AND q.seq = j.seq AND q.seq >= %(first_seq)s
    WHERE j.lane = %(lane)s AND j.seq >= %(first_seq)s::bigint - 1 AND j.seq < %(first_seq)s::bigint + %(records_max)s
) AS candidate
WHERE seq >= %(first_seq)s AND raw_bytes_so_far - raw_bytes <= %(raw_bytes_max)s
ORDER BY seq

-- name: signed_heads
-- Posting's signed heads of ranges that end in these rows.
SELECT first_seq, next_seq, signature
FROM ledger.signed_head
WHERE lane = %(lane)s AND next_seq > %(first_seq)s AND next_seq <= %(first_seq)s::bigint + %(records_max)s
ORDER BY next_seq

-- name: legs
-- The legs of the same rows.
SELECT e.seq, a.address, e.direction, e.amount_minor, e.currency
FROM ledger.entry AS e
INNER JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE
    e.lane = %(lane)s
    AND ledger.leg_place(e.seq, e.leg) >= ledger.leg_place(%(first_seq)s, 0)
    AND ledger.leg_place(e.seq, e.leg) < ledger.leg_place(%(first_seq)s::bigint + %(records_max)s, 0)
ORDER BY ledger.leg_place(e.seq, e.leg)

-- name: listen_traced
-- Subscribes to the batches that posting traces.
LISTEN ledgerline_traced

-- name: listen
-- Subscribes to the notification of each posting transaction.
LISTEN ledgerline_posted
