-- Reconciliation's queries of the ledger to judge rejections; each query takes the rejections of one batch.

-- name: books_changed
-- The time of the last change of the books' frame, in microseconds since 1970, and its version.
SELECT version, (extract(epoch FROM changed_time) * 1000000)::bigint AS changed_time
FROM ledger.books_version

-- name: originals
-- The rows that settled the intents that reversals name.
SELECT j.tenant, j.intent_id::text AS intent_id, j.lane, j.seq, j.outcome, j.type, j.booked_time
FROM unnest(%(tenants)s::text [], %(intent_ids)s::uuid []) AS asked (tenant, intent_id)
INNER JOIN ledger.journal AS j ON j.tenant = asked.tenant AND j.intent_id = asked.intent_id
WHERE j.outcome IN ('posted', 'rejected')

-- name: holdings
-- The data for a lower bound of what each account held when the row (lane, seq) was decided. Today's sums include every
-- draw since then, so draws only lower the bound. late_minor is the amount on the normal side since then, to be
-- subtracted. It counts entries of the row's own lane from this seq on, and entries that other lanes booked at
-- before_time or later. Only the last entries_max entries of each lane are read; is_whole is false if they do not reach
-- back far enough.
SELECT
    asked.number, a.normal_direction, a.floor_minor,
    coalesce(held.debits_minor, 0) AS debits_minor, coalesce(held.credits_minor, 0) AS credits_minor,
    coalesce(late.amount_minor, 0) AS late_minor, coalesce(late.is_whole, true) AS is_whole
FROM unnest(
    %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [],
    %(lanes)s::bigint [], %(seqs)s::bigint [], %(before_times)s::bigint []
) WITH ORDINALITY AS asked (tenant, address, currency, lane, seq, before_time, number)
INNER JOIN ledger.account AS a ON a.tenant = asked.tenant AND a.address = asked.address
LEFT JOIN LATERAL (
    SELECT sum(b.debits_minor) AS debits_minor, sum(b.credits_minor) AS credits_minor
    FROM ledger.balance AS b
    WHERE b.account_id = a.account_id AND b.currency = asked.currency
) AS held ON true
LEFT JOIN LATERAL (
    SELECT sum(of_lane.amount_minor) AS amount_minor, bool_and(of_lane.is_whole) AS is_whole
    FROM ledger.lane AS l
    CROSS JOIN LATERAL (
        SELECT
            sum(recent.amount_minor) FILTER (
                WHERE NOT recent.is_before AND recent.direction = a.normal_direction
                AND recent.currency = asked.currency
            ) AS amount_minor,
            count(*) < %(entries_max)s OR bool_or(recent.is_before) AS is_whole
        FROM (
            SELECT
                e.direction, e.amount_minor, e.currency,
                CASE WHEN e.lane = asked.lane THEN e.seq < asked.seq ELSE j.booked_time < asked.before_time END
                AS is_before
            FROM ledger.entry AS e
            INNER JOIN ledger.journal AS j ON j.lane = e.lane AND j.seq = e.seq
            WHERE
                e.account_id = a.account_id
                AND ledger.row_place(e.lane, e.seq) >= ledger.row_place(l.lane, 0)
                AND ledger.row_place(e.lane, e.seq) < ledger.row_place(l.lane, l.next_seq)
            ORDER BY ledger.row_place(e.lane, e.seq) DESC
            LIMIT %(entries_max)s
        ) AS recent
    ) AS of_lane
) AS late ON true
