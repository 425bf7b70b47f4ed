-- Reconciliation: its own books, and read-only queries of the ledger.

-- name: make_lanes
-- Inserts lanes that reconciliation has not read from before.
INSERT INTO reconciliation.lane (lane)
SELECT wanted.lane
FROM unnest(%(lanes)s::integer []) AS wanted (lane)
ORDER BY wanted.lane
ON CONFLICT (lane) DO NOTHING

-- name: lock_lanes
-- The fence: only one worker can hold a lane. Lanes are locked in order.
SELECT
    lane, next_offset, next_seq, source_first_offset, posted, duplicate, idempotency_conflict, rejected,
    quarantined, expired, booked_time
FROM reconciliation.lane
WHERE lane = ANY(%(lanes)s::integer [])
ORDER BY lane
FOR NO KEY UPDATE

-- name: lanes
-- The position of every lane, without a lock.
SELECT
    lane, next_offset, next_seq, source_first_offset, posted, duplicate, idempotency_conflict, rejected,
    quarantined, expired, booked_time
FROM reconciliation.lane
ORDER BY lane

-- name: move_lane
-- Stores a lane's position and counts after a batch.
UPDATE reconciliation.lane
SET
    next_offset = %(next_offset)s, next_seq = %(next_seq)s, source_first_offset = %(source_first_offset)s,
    posted = %(posted)s, duplicate = %(duplicate)s, idempotency_conflict = %(idempotency_conflict)s,
    rejected = %(rejected)s, quarantined = %(quarantined)s, expired = %(expired)s, booked_time = %(booked_time)s
WHERE lane = %(lane)s

-- name: gaps
-- The gaps of these lanes: records that have not arrived although later ones have.
SELECT lane, seq
FROM reconciliation.gap
WHERE lane = ANY(%(lanes)s::integer [])
ORDER BY lane, seq

-- name: add_gaps
-- Adds gaps: records that the topic skipped.
INSERT INTO reconciliation.gap (lane, seq)
SELECT missing.lane, missing.seq
FROM unnest(%(lanes)s::integer [], %(seqs)s::bigint []) AS missing (lane, seq)
ON CONFLICT (lane, seq) DO NOTHING

-- name: remove_gaps
-- Removes gaps whose records arrived late.
DELETE FROM reconciliation.gap AS g
USING unnest(%(lanes)s::integer [], %(seqs)s::bigint []) AS came (lane, seq)
WHERE g.lane = came.lane AND g.seq = came.seq

-- name: add_balances
-- Adds a batch's debits and credits to reconciliation's own balances.
INSERT INTO reconciliation.balance AS own (tenant, address, currency, lane, debits_minor, credits_minor, seq)
SELECT moved.tenant, moved.address, moved.currency, moved.lane, moved.debits, moved.credits, moved.seq
FROM unnest(
    %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [], %(lanes)s::integer [],
    %(debits_minor)s::numeric [], %(credits_minor)s::numeric [], %(seqs)s::bigint []
) AS moved (tenant, address, currency, lane, debits, credits, seq)
ON CONFLICT (tenant, address, currency, lane) DO UPDATE SET
    debits_minor = own.debits_minor + excluded.debits_minor,
    credits_minor = own.credits_minor + excluded.credits_minor,
    seq = greatest(own.seq, excluded.seq)

-- name: add_totals
-- Adds a batch's debits and credits to the sums by class of account.
INSERT INTO reconciliation.total AS own (lane, tenant, currency, account_class, debits_minor, credits_minor)
SELECT moved.lane, moved.tenant, moved.currency, moved.account_class, moved.debits, moved.credits
FROM unnest(
    %(lanes)s::integer [], %(tenants)s::text [], %(currencies)s::text [], %(account_classes)s::text [],
    %(debits_minor)s::numeric [], %(credits_minor)s::numeric []
) AS moved (lane, tenant, currency, account_class, debits, credits)
ON CONFLICT (lane, tenant, currency, account_class) DO UPDATE SET
    debits_minor = own.debits_minor + excluded.debits_minor,
    credits_minor = own.credits_minor + excluded.credits_minor

-- name: totals
-- Sums over all lanes by tenant, currency and class of account.
SELECT tenant, currency, account_class, sum(debits_minor) AS debits_minor, sum(credits_minor) AS credits_minor
FROM reconciliation.total
GROUP BY tenant, currency, account_class
ORDER BY tenant, currency, account_class

-- name: own_sums
-- Reconciliation's own sums of these shards, if it has them. LATERAL with LIMIT 1 makes Postgres look each shard up by
-- its key, even if its estimates of sizes are wrong.
SELECT asked.number, own.debits_minor, own.credits_minor, own.seq
FROM unnest(
    %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [], %(lanes)s::integer []
) WITH ORDINALITY AS asked (tenant, address, currency, lane, number)
CROSS JOIN LATERAL (
    SELECT b.debits_minor, b.credits_minor, b.seq
    FROM reconciliation.balance AS b
    WHERE
        b.tenant = asked.tenant AND b.address = asked.address AND b.currency = asked.currency
        AND b.lane = asked.lane
    LIMIT 1
) AS own

-- name: unequal_shards
-- The shards that differ from the ledger's, which is looked up by an account with both this id and this name.
SELECT asked.number, held.debits_minor, held.credits_minor, held.seq
FROM unnest(
    %(account_ids)s::bigint [], %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [],
    %(lanes)s::integer [], %(debits_minor)s::numeric [], %(credits_minor)s::numeric [], %(seqs)s::bigint []
) WITH ORDINALITY AS asked (
    account_id, tenant, address, currency, lane, debits_minor, credits_minor, seq, number
)
LEFT JOIN LATERAL (
    SELECT b.debits_minor, b.credits_minor, b.seq
    FROM (
        SELECT a.account_id
        FROM ledger.account AS a
        WHERE a.account_id = asked.account_id AND a.tenant = asked.tenant AND a.address = asked.address
        LIMIT 1
    ) AS named
    CROSS JOIN LATERAL (
        SELECT h.debits_minor, h.credits_minor, h.seq
        FROM ledger.balance AS h
        WHERE h.account_id = named.account_id AND h.currency = asked.currency AND h.lane = asked.lane
        LIMIT 1
    ) AS b
) AS held ON true
WHERE
    (asked.debits_minor, asked.credits_minor, asked.seq)
    IS DISTINCT FROM (held.debits_minor, held.credits_minor, held.seq)

-- name: shards
-- Both sides of these shards, null on a side that lacks it, for a second check.
SELECT
    asked.tenant, asked.address, asked.currency, asked.lane, own.debits_minor, own.credits_minor, own.seq,
    held.debits_minor, held.credits_minor, held.seq, coalesce(stands.next_seq, 0) AS next_seq
FROM unnest(
    %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [], %(lanes)s::integer []
) AS asked (tenant, address, currency, lane)
LEFT JOIN reconciliation.lane AS stands ON stands.lane = asked.lane
LEFT JOIN reconciliation.balance AS own
    ON
        own.tenant = asked.tenant AND own.address = asked.address AND own.currency = asked.currency
        AND own.lane = asked.lane
LEFT JOIN ledger.account AS a ON a.tenant = asked.tenant AND a.address = asked.address
LEFT JOIN ledger.balance AS held
    ON held.account_id = a.account_id AND held.currency = asked.currency AND held.lane = asked.lane

-- name: sweep_ledger_shards
-- A page of the ledger's shards in order of their key, each with reconciliation's own sums.
SELECT
    held.account_id, coalesce(a.tenant, '') AS tenant,
    coalesce(a.address, 'account ' || held.account_id::text) AS address, held.currency, held.lane,
    own.debits_minor, own.credits_minor, own.seq, held.debits_minor, held.credits_minor, held.seq,
    coalesce(stands.next_seq, 0) AS next_seq
FROM (
    SELECT account_id, currency, lane, debits_minor, credits_minor, seq
    FROM ledger.balance
    WHERE (account_id, currency, lane) > (%(account_id)s::bigint, %(currency)s::text, %(lane)s::integer)
    ORDER BY account_id, currency, lane
    LIMIT %(limit)s::integer
) AS held
LEFT JOIN ledger.account AS a ON a.account_id = held.account_id
LEFT JOIN reconciliation.lane AS stands ON stands.lane = held.lane
LEFT JOIN reconciliation.balance AS own
    ON
        own.tenant = a.tenant AND own.address = a.address AND own.currency = held.currency
        AND own.lane = held.lane
ORDER BY held.account_id, held.currency, held.lane

-- name: sweep_own_shards
-- A page of reconciliation's own shards in order of their key, each with the ledger's sums.
SELECT
    own.tenant, own.address, own.currency, own.lane, own.debits_minor, own.credits_minor, own.seq,
    held.debits_minor, held.credits_minor, held.seq, stands.next_seq
FROM (
    SELECT tenant, address, currency, lane, debits_minor, credits_minor, seq
    FROM reconciliation.balance
    WHERE
        (tenant, address, currency, lane)
        > (%(tenant)s::text, %(address)s::text, %(currency)s::text, %(lane)s::integer)
    ORDER BY tenant, address, currency, lane
    LIMIT %(limit)s::integer
) AS own
INNER JOIN reconciliation.lane AS stands ON stands.lane = own.lane
LEFT JOIN ledger.account AS a ON a.tenant = own.tenant AND a.address = own.address
LEFT JOIN ledger.balance AS held
    ON held.account_id = a.account_id AND held.currency = own.currency AND held.lane = own.lane
ORDER BY own.tenant, own.address, own.currency, own.lane

-- name: faulty_rows
-- In a window of a lane: journal rows that are missing, that have a wrong number of entries, or whose entries do not
-- balance.
SELECT
    place.seq, j.seq IS NOT NULL AS has_row, coalesce(j.leg_count, 0)::integer AS leg_count,
    coalesce(e.legs, 0)::integer AS entry_count, coalesce(e.balanced, true) AS is_balanced
FROM generate_series(%(first_seq)s::bigint, %(next_seq)s::bigint - 1) AS place (seq)
LEFT JOIN ledger.journal AS j
    ON
        j.lane = %(lane)s::integer AND j.seq = place.seq
        AND j.seq >= %(first_seq)s AND j.seq < %(next_seq)s
LEFT JOIN (
    SELECT sums.seq, sum(sums.legs) AS legs, bool_and(sums.difference = 0) AS balanced
    FROM (
        SELECT seq, currency, count(*) AS legs, sum(direction * amount_minor::numeric) AS difference
        FROM ledger.entry
        WHERE
            lane = %(lane)s::integer
            AND ledger.leg_place(seq, leg) >= ledger.leg_place(%(first_seq)s, 0)
            AND ledger.leg_place(seq, leg) < ledger.leg_place(%(next_seq)s, 0)
        GROUP BY seq, currency
    ) AS sums
    GROUP BY sums.seq
) AS e ON e.seq = place.seq
WHERE j.seq IS NULL OR j.leg_count <> coalesce(e.legs, 0) OR NOT coalesce(e.balanced, true)
ORDER BY place.seq

-- name: accounts
-- The id and the class of each of these accounts that the ledger has opened.
SELECT a.tenant, a.address, a.account_id, a.account_class
FROM unnest(%(tenants)s::text [], %(addresses)s::text []) AS asked (tenant, address)
INNER JOIN ledger.account AS a ON a.tenant = asked.tenant AND a.address = asked.address

-- name: settled
-- The rows that settled these intents.
SELECT j.tenant, j.intent_id::text AS intent_id, j.lane, j.seq, j.outcome, j.fingerprint
FROM unnest(%(tenants)s::text [], %(intent_ids)s::uuid []) AS asked (tenant, intent_id)
INNER JOIN ledger.journal AS j ON j.tenant = asked.tenant AND j.intent_id = asked.intent_id
WHERE j.outcome IN ('posted', 'rejected')

-- name: original_sums
-- The amounts of the posted transfers with these ids, by account, direction and currency.
SELECT
    j.tenant, j.intent_id::text AS intent_id, a.address, e.direction, e.currency, sum(e.amount_minor) AS amount_minor
FROM unnest(%(tenants)s::text [], %(intent_ids)s::uuid []) AS asked (tenant, intent_id)
INNER JOIN ledger.journal AS j ON j.tenant = asked.tenant AND j.intent_id = asked.intent_id
CROSS JOIN LATERAL ledger.legs(j.lane, j.seq) AS e
INNER JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE j.outcome = 'posted' AND j.type = 'transfer'
GROUP BY j.tenant, j.intent_id, a.address, e.direction, e.currency

-- name: reversed_sums
-- The amounts that all posted reversals of these ids took back; direction is that of the original's legs.
SELECT
    j.tenant, j.reverses::text AS intent_id, a.address, -e.direction AS direction, e.currency,
    sum(e.amount_minor) AS amount_minor
FROM unnest(%(tenants)s::text [], %(intent_ids)s::uuid []) AS asked (tenant, intent_id)
INNER JOIN ledger.journal AS j ON j.tenant = asked.tenant AND j.reverses = asked.intent_id
CROSS JOIN LATERAL ledger.legs(j.lane, j.seq) AS e
INNER JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE j.outcome = 'posted'
GROUP BY j.tenant, j.reverses, a.address, e.direction, e.currency

-- name: tenant_times
-- When each of these tenants was made, in microseconds since 1970.
SELECT t.tenant, (extract(EPOCH FROM t.created_time) * 1000000)::bigint AS created_time
FROM ledger.tenant AS t
WHERE t.tenant = ANY(%(tenants)s::text [])

-- name: row_hashes
-- The ledger's hashes at these places.
SELECT j.lane, j.seq, j.hash
FROM unnest(%(lanes)s::integer [], %(seqs)s::bigint []) AS asked (lane, seq)
INNER JOIN ledger.journal AS j ON j.lane = asked.lane AND j.seq = asked.seq

-- name: gap_sums
-- The amounts of the ledger's rows in the gaps, which can explain why balances differ.
SELECT
    a.tenant, a.address, e.currency, e.lane,
    coalesce(sum(e.amount_minor) FILTER (WHERE e.direction = 1), 0) AS debits_minor,
    coalesce(sum(e.amount_minor) FILTER (WHERE e.direction = -1), 0) AS credits_minor
FROM reconciliation.gap AS g
CROSS JOIN LATERAL ledger.legs(g.lane, g.seq) AS e
INNER JOIN ledger.account AS a ON a.account_id = e.account_id
GROUP BY a.tenant, a.address, e.currency, e.lane

-- name: ledger_lanes
-- The lanes' positions in the ledger's tables, and the booking time of each lane's last row. If that row is missing,
-- the lane's own time is taken, because another check reports the missing row.
SELECT l.lane, l.topic, l.first_offset, l.next_offset, l.next_seq, l.booked_time,
    CASE l.next_seq WHEN 0 THEN 0 ELSE coalesce(j.booked_time, l.booked_time) END AS last_booked_time
FROM ledger.lane AS l
LEFT JOIN ledger.journal AS j ON j.lane = l.lane AND j.seq = l.next_seq - 1
ORDER BY l.lane

-- name: booked_times
-- When the ledger booked its rows at these places.
SELECT j.lane, j.booked_time
FROM unnest(%(lanes)s::integer [], %(seqs)s::bigint []) AS asked (lane, seq)
INNER JOIN ledger.journal AS j ON j.lane = asked.lane AND j.seq = asked.seq

-- name: all_ledger_shards
-- Every shard of the ledger, for a full recomputation.
SELECT
    coalesce(a.tenant, '') AS tenant, coalesce(a.address, 'account ' || held.account_id::text) AS address,
    held.currency, held.lane, held.debits_minor, held.credits_minor, held.seq
FROM ledger.balance AS held
LEFT JOIN ledger.account AS a ON a.account_id = held.account_id

-- name: all_entry_sums
-- The sums of the entries by shard, for a full recomputation.
SELECT
    coalesce(a.tenant, '') AS tenant, coalesce(a.address, 'account ' || e.account_id::text) AS address,
    e.currency, e.lane, e.debits_minor, e.credits_minor, e.seq
FROM (
    SELECT
        account_id, currency, lane,
        coalesce(sum(amount_minor) FILTER (WHERE direction = 1), 0) AS debits_minor,
        coalesce(sum(amount_minor) FILTER (WHERE direction = -1), 0) AS credits_minor,
        max(seq) AS seq
    FROM ledger.entry
    GROUP BY account_id, currency, lane
) AS e
LEFT JOIN ledger.account AS a ON a.account_id = e.account_id

-- name: all_account_classes
-- The class of every account.
SELECT tenant, address, account_class
FROM ledger.account
