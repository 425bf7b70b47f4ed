-- Symmetry rules: reconciliation's own record of what moved on the accounts that must come back.

-- name: add_movements
-- Adds what a batch moved on matched accounts; a record that is read again changes nothing.
INSERT INTO reconciliation.unmatched (tenant, address, currency, direction, lane, seq, amount_minor, booked_time)
SELECT m.tenant, m.address, m.currency, m.direction, m.lane, m.seq, m.amount_minor, m.booked_time
FROM unnest(
    %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [], %(directions)s::smallint [],
    %(lanes)s::integer [], %(seqs)s::bigint [], %(amounts_minor)s::numeric [], %(booked_times)s::bigint []
) AS m (tenant, address, currency, direction, lane, seq, amount_minor, booked_time)
ON CONFLICT DO NOTHING

-- name: add_unknown
-- Adds what these accounts are away by and no row explains, as the oldest of all: it was away before the rule began.
INSERT INTO reconciliation.unmatched AS known
(tenant, address, currency, direction, lane, seq, amount_minor, booked_time)
SELECT
    asked.tenant, asked.address, asked.currency, sign(away.net_minor)::smallint, -1, 0,
    abs(away.net_minor) - told.amount_minor, %(now)s::bigint
FROM unnest(
    %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [], %(wanted_minor)s::numeric []
) AS asked (tenant, address, currency, wanted_minor)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(b.debits_minor - b.credits_minor), 0) - asked.wanted_minor AS net_minor
    FROM reconciliation.balance AS b
    WHERE b.tenant = asked.tenant AND b.address = asked.address AND b.currency = asked.currency
) AS away
CROSS JOIN LATERAL (
    SELECT coalesce(sum(u.amount_minor), 0) AS amount_minor
    FROM reconciliation.unmatched AS u
    WHERE
        u.tenant = asked.tenant AND u.address = asked.address AND u.currency = asked.currency
        AND u.direction = sign(away.net_minor) AND u.lane >= 0
) AS told
WHERE abs(away.net_minor) > told.amount_minor
ORDER BY asked.tenant, asked.address, asked.currency
ON CONFLICT (tenant, address, currency, direction, lane, seq) DO UPDATE SET amount_minor = excluded.amount_minor
WHERE known.amount_minor < excluded.amount_minor

-- name: accounts
-- A page of the accounts that have rows.
SELECT DISTINCT u.tenant, u.address, u.currency
FROM reconciliation.unmatched AS u
WHERE (u.tenant, u.address, u.currency) > (%(tenant)s::text, %(address)s::text, %(currency)s::text)
ORDER BY u.tenant, u.address, u.currency
LIMIT %(limit)s::integer

-- name: may_prune
-- Whether this transaction may delete rows; one worker at a time does, so that two do not deadlock.
SELECT pg_try_advisory_xact_lock(1279544148) AS may_prune

-- name: forget_accounts
-- Deletes all rows of accounts that no rule matches any more.
DELETE FROM reconciliation.unmatched AS u
USING unnest(%(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text []) AS asked (tenant, address, currency)
WHERE u.tenant = asked.tenant AND u.address = asked.address AND u.currency = asked.currency

-- name: forget_matched
-- Deletes rows whose money has come back. A row that is booked after the horizon stays: a lane may still bring an older
-- one, and the order of the two decides which of them is matched.
DELETE FROM reconciliation.unmatched AS u
USING (
    SELECT
        r.tenant, r.address, r.currency, r.direction, r.lane, r.seq, r.booked_time,
        greatest(r.direction * away.net_minor, 0) AS open_minor,
        sum(r.amount_minor) OVER (
            PARTITION BY r.tenant, r.address, r.currency, r.direction
            ORDER BY r.lane >= 0 DESC, r.booked_time DESC, r.lane DESC, r.seq DESC ROWS UNBOUNDED PRECEDING
        ) - r.amount_minor AS newer_minor
    FROM unnest(
        %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [], %(wanted_minor)s::numeric []
    ) AS asked (tenant, address, currency, wanted_minor)
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(b.debits_minor - b.credits_minor), 0) - asked.wanted_minor AS net_minor
        FROM reconciliation.balance AS b
        WHERE b.tenant = asked.tenant AND b.address = asked.address AND b.currency = asked.currency
    ) AS away
    INNER JOIN reconciliation.unmatched AS r
        ON r.tenant = asked.tenant AND r.address = asked.address AND r.currency = asked.currency
) AS ranked
WHERE
    ranked.newer_minor >= ranked.open_minor AND (ranked.booked_time <= %(horizon)s::bigint OR ranked.lane = -1)
    AND u.tenant = ranked.tenant AND u.address = ranked.address AND u.currency = ranked.currency
    AND u.direction = ranked.direction AND u.lane = ranked.lane AND u.seq = ranked.seq

-- name: judge
-- What each account is away by, and since when: the booking time of the oldest row that has not come back.
SELECT asked.number, away.net_minor, oldest.booked_time
FROM unnest(
    %(tenants)s::text [], %(addresses)s::text [], %(currencies)s::text [], %(wanted_minor)s::numeric []
) WITH ORDINALITY AS asked (tenant, address, currency, wanted_minor, number)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(b.debits_minor - b.credits_minor), 0) - asked.wanted_minor AS net_minor
    FROM reconciliation.balance AS b
    WHERE b.tenant = asked.tenant AND b.address = asked.address AND b.currency = asked.currency
) AS away
LEFT JOIN LATERAL (
    SELECT ranked.booked_time
    FROM (
        SELECT
            u.lane, u.seq, u.booked_time,
            sum(u.amount_minor) OVER (
                ORDER BY u.lane >= 0 DESC, u.booked_time DESC, u.lane DESC, u.seq DESC ROWS UNBOUNDED PRECEDING
            ) - u.amount_minor AS newer_minor
        FROM reconciliation.unmatched AS u
        WHERE
            u.tenant = asked.tenant AND u.address = asked.address AND u.currency = asked.currency
            AND u.direction = sign(away.net_minor)
    ) AS ranked
    WHERE ranked.newer_minor < abs(away.net_minor)
    ORDER BY ranked.lane >= 0, ranked.booked_time, ranked.lane, ranked.seq
    LIMIT 1
) AS oldest ON true
WHERE away.net_minor <> 0
ORDER BY asked.number
