-- name: settled
-- The rows that settled these intents of one tenant, and the version of the books in each row. If no intent is settled,
-- there is one row with the version alone.
SELECT
    v.version AS books_version,
    j.lane, j.seq, l.topic AS source_topic, l.first_offset + j.seq AS source_offset, j.outcome, j.reason, j.detail,
    j.intent_id, j.idempotency_key, j.fingerprint, j.type, j.reverses, j.reference, j.metadata, j.value_time,
    j.booked_time, j.hash
FROM ledger.books_version AS v
LEFT JOIN ledger.journal AS j
    ON j.tenant = %(tenant)s AND j.intent_id = ANY(%(intent_ids)s::uuid[]) AND j.outcome IN ('posted', 'rejected')
LEFT JOIN ledger.lane AS l ON l.lane = j.lane

-- name: intents
-- For each question, in any order: the row that settled the intent, with its legs; the next offset of the question's
-- lane; and the result of the delivery at (lane, offset). Lanes and offsets may be null.
SELECT
    asked.number,
    stands.next_offset,
    d.outcome AS delivery_outcome, d.seq AS delivery_seq, d.hash AS delivery_hash, d.detail AS delivery_detail,
    j.lane, j.seq, l.topic AS source_topic, l.first_offset + j.seq AS source_offset, j.outcome, j.reason, j.detail,
    j.intent_id, j.idempotency_key, j.fingerprint, j.type, j.reverses, j.reference, j.metadata, j.value_time,
    j.booked_time, j.hash,
    (
        SELECT coalesce(jsonb_agg(
            jsonb_build_array(a.address, e.direction, e.amount_minor, e.currency) ORDER BY e.leg
        ), '[]')
        FROM ledger.legs(j.lane, j.seq) AS e
        JOIN ledger.account AS a ON a.account_id = e.account_id
    ) AS legs
FROM unnest(%(intent_ids)s::uuid[], %(lanes)s::integer[], %(offsets)s::bigint[])
WITH ORDINALITY AS asked (intent_id, lane, source_offset, number)
LEFT JOIN ledger.lane AS stands ON stands.lane = asked.lane
LEFT JOIN ledger.journal AS j
    ON j.tenant = %(tenant)s AND j.intent_id = asked.intent_id AND j.outcome IN ('posted', 'rejected')
LEFT JOIN ledger.lane AS l ON l.lane = j.lane
LEFT JOIN LATERAL (
    SELECT outcome, seq, hash, detail
    FROM ledger.journal
    WHERE
        lane = stands.lane AND seq = asked.source_offset - stands.first_offset
        AND tenant = %(tenant)s AND intent_id = asked.intent_id
    OFFSET 0
) AS d ON true

-- name: reversible
-- The settled ones of these intents, each with the first account with a floor that its reversal would draw down. That
-- is null for a rejected intent, which has no legs.
SELECT
    j.intent_id,
    (
        SELECT a.address
        FROM ledger.legs(j.lane, j.seq) AS e
        JOIN ledger.account AS a ON a.account_id = e.account_id
        WHERE a.floor_minor IS NOT NULL AND e.direction = a.normal_direction
        ORDER BY e.leg
        LIMIT 1
    ) AS drained
FROM ledger.journal AS j
WHERE j.tenant = %(tenant)s AND j.intent_id = ANY(%(intent_ids)s::uuid[]) AND j.outcome IN ('posted', 'rejected')

-- name: lane_offsets
-- For every lane, the offset after the last one that was posted.
SELECT lane, next_offset FROM ledger.lane

-- name: accounts
-- A page of a tenant's accounts in order of address, of those that begin with a prefix.
SELECT address, account_class, normal_direction, floor_minor, opened_time
FROM ledger.account
WHERE
    tenant = %(tenant)s
    AND address > %(after)s
    AND address >= %(prefix)s AND address < %(prefix)s || '~'
ORDER BY address
LIMIT %(limit)s

-- name: account
-- One account.
SELECT address, account_class, normal_direction, floor_minor, opened_time
FROM ledger.account
WHERE tenant = %(tenant)s AND address = %(address)s

-- name: balances
-- A page of balances, summed over the lanes' shards, of the accounts that begin with a prefix.
SELECT
    a.address, a.account_class, a.normal_direction, b.currency,
    sum(b.debits_minor) AS debits_minor, sum(b.credits_minor) AS credits_minor
FROM (
    SELECT account_id, address, account_class, normal_direction
    FROM ledger.account
    WHERE
        tenant = %(tenant)s
        AND address >= %(after)s
        AND address >= %(prefix)s AND address < %(prefix)s || '~'
    ORDER BY address
    LIMIT %(limit)s + 1
) AS a
JOIN ledger.balance AS b ON b.account_id = a.account_id
WHERE (a.address, b.currency COLLATE "C") > (%(after)s, %(after_currency)s COLLATE "C")
GROUP BY a.address, a.account_class, a.normal_direction, b.currency
ORDER BY a.address, b.currency COLLATE "C"
LIMIT %(limit)s

-- name: account_balances
-- The balances of one account in every currency; one row without a currency if it has none yet.
SELECT
    a.address, a.account_class, a.normal_direction, b.currency,
    sum(b.debits_minor) AS debits_minor, sum(b.credits_minor) AS credits_minor
FROM ledger.account AS a
LEFT JOIN ledger.balance AS b ON b.account_id = a.account_id
WHERE a.tenant = %(tenant)s AND a.address = %(address)s
GROUP BY a.address, a.account_class, a.normal_direction, b.currency
ORDER BY b.currency COLLATE "C"

-- name: entries
-- A page of one account's entries in order of (lane, seq, leg), with their journal rows. The account's index has this
-- order, so only the page is read even if the account has millions of entries. The limit is a subquery to hide it from
-- the planner: with a known limit it would assume few entries, as most accounts have, and sort all of them.
SELECT
    e.lane, e.seq, e.leg, e.direction, e.amount_minor, e.currency,
    j.intent_id, j.type, j.reference, j.value_time, j.booked_time
FROM (
    SELECT lane, seq, leg, direction, amount_minor, currency
    FROM ledger.entry
    WHERE
        account_id = (
            SELECT a.account_id FROM ledger.account AS a WHERE a.tenant = %(tenant)s AND a.address = %(address)s
        )
        AND (ledger.row_place(lane, seq), leg) > (ledger.row_place(%(lane)s, %(seq)s), %(leg)s::smallint)
    ORDER BY ledger.row_place(lane, seq), leg
    LIMIT (SELECT %(limit)s::integer)
) AS e
JOIN ledger.journal AS j ON j.lane = e.lane AND j.seq = e.seq
ORDER BY ledger.row_place(e.lane, e.seq), e.leg

-- name: journal
-- A page of a tenant's journal rows in order of (lane, seq). At most scan_max rows of all tenants are scanned, so that
-- a tenant with few rows costs no more than others. If the scan reached scan_max before the page was full, the last
-- scanned row is returned too, with matches = false: the next page continues from it.
WITH scanned AS (
    SELECT lane, seq, tenant, outcome, row_number() OVER (ORDER BY lane, seq) AS place
    FROM (
        SELECT lane, seq, tenant, outcome
        FROM ledger.journal
        WHERE
            (lane, seq) > (%(after_lane)s::integer, %(after_seq)s::bigint)
            AND lane <= %(lane_max)s::integer
        ORDER BY lane, seq
        LIMIT %(scan_max)s
    ) AS looked_at
),

wanted AS (
    SELECT lane, seq, true AS matches
    FROM scanned
    WHERE tenant = %(tenant)s AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s::text)
    ORDER BY lane, seq
    LIMIT %(limit)s
),

last_scanned AS (
    SELECT s.lane, s.seq
    FROM scanned AS s
    WHERE s.place = %(scan_max)s AND (SELECT count(*) FROM wanted) < %(limit)s
)

SELECT
    w.matches, j.lane, j.seq, l.topic AS source_topic, l.first_offset + j.seq AS source_offset, j.outcome, j.reason,
    j.detail, j.tenant, j.intent_id, j.idempotency_key, j.fingerprint, j.type, j.reverses, j.reference, j.metadata,
    j.value_time, j.booked_time, j.hash,
    coalesce(
        (SELECT p.hash FROM ledger.journal AS p WHERE p.lane = j.lane AND p.seq = j.seq - 1),
        decode(repeat('00', 32), 'hex')
    ) AS previous_hash,
    (
        SELECT coalesce(jsonb_agg(
            jsonb_build_array(a.address, e.direction, e.amount_minor, e.currency) ORDER BY e.leg
        ), '[]')
        FROM ledger.legs(j.lane, j.seq) AS e
        JOIN ledger.account AS a ON a.account_id = e.account_id
        WHERE w.matches
    ) AS legs
FROM (
    SELECT lane, seq, matches FROM wanted
    UNION ALL
    SELECT lane, seq, false FROM last_scanned
) AS w
JOIN ledger.journal AS j ON j.lane = w.lane AND j.seq = w.seq
JOIN ledger.lane AS l ON l.lane = j.lane
ORDER BY w.lane, w.seq, w.matches DESC
