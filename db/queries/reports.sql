-- The accountants' queries, each of one tenant: an account's statement with its running balance, and the trial balance.

-- name: statement
-- A page of an account's statement in one currency by booking time, the latest first, before a place; and the net
-- (debits less credits) at that place, which is computed only if running_net is null. A lane's rows are booked in
-- order, so the place in each lane is found by binary search, and at most a page of each lane is read.
WITH RECURSIVE searched AS (
    SELECT lane, 0::bigint AS low, next_seq AS high
    FROM ledger.lane
    UNION ALL
    SELECT
        s.lane,
        CASE WHEN coalesce(m.is_before, false) THEN s.middle + 1 ELSE s.low END,
        CASE WHEN coalesce(m.is_before, false) THEN s.high ELSE s.middle END
    FROM (SELECT lane, low, high, (low + high) / 2 AS middle FROM searched WHERE low < high) AS s
    LEFT JOIN LATERAL (
        SELECT
            (j.booked_time, j.lane, j.seq) < (%(time)s::bigint, %(lane)s::integer, %(seq)s::bigint) AS is_before
        FROM ledger.journal AS j
        WHERE j.lane = s.lane AND j.seq = s.middle
        OFFSET 0
    ) AS m ON true
),

bound AS (
    SELECT lane, low AS seq FROM searched WHERE low = high
),

owner AS (
    SELECT account_id FROM ledger.account WHERE tenant = %(tenant)s AND address = %(address)s
),

page AS (
    SELECT
        e.lane, e.seq, e.leg, e.direction, e.amount_minor, j.intent_id, j.type, j.reference, j.value_time, j.booked_time
    FROM bound
    CROSS JOIN LATERAL (
        SELECT found.lane, found.seq, found.leg, found.direction, found.amount_minor
        FROM ledger.entry AS found
        WHERE
            found.account_id = (SELECT account_id FROM owner)
            AND ledger.row_place(found.lane, found.seq) >= ledger.row_place(bound.lane, 0)
            AND ledger.row_place(found.lane, found.seq) <= ledger.row_place(bound.lane, bound.seq)
            AND (
                found.seq < bound.seq
                OR (found.lane = %(lane)s::integer AND found.seq = %(seq)s::bigint AND found.leg < %(leg)s::smallint)
            )
            AND found.currency = %(currency)s
        ORDER BY ledger.row_place(found.lane, found.seq) DESC, found.leg DESC
        LIMIT (SELECT %(limit)s::integer)
    ) AS e
    INNER JOIN ledger.journal AS j ON j.lane = e.lane AND j.seq = e.seq
    WHERE j.booked_time >= %(since)s::bigint
    ORDER BY j.booked_time DESC, e.lane DESC, e.seq DESC, e.leg DESC
    LIMIT %(limit)s::integer
)

SELECT
    closing.net_minor, page.lane, page.seq, page.leg, page.direction, page.amount_minor, page.intent_id, page.type,
    page.reference, page.value_time, page.booked_time
FROM (
    SELECT
        CASE
            WHEN %(running_net)s::numeric IS NOT NULL THEN %(running_net)s::numeric
            ELSE coalesce((
                SELECT sum(b.debits_minor) - sum(b.credits_minor)
                FROM ledger.balance AS b
                WHERE b.account_id = (SELECT account_id FROM owner) AND b.currency = %(currency)s
            ), 0) - coalesce((
                SELECT sum(later.net_minor)
                FROM bound
                CROSS JOIN LATERAL (
                    -- One sum for each lane, so that the index is read only for the entries after the place.
                    SELECT sum(e.direction * e.amount_minor) AS net_minor
                    FROM ledger.entry AS e
                    WHERE
                        e.account_id = (SELECT account_id FROM owner)
                        AND ledger.row_place(e.lane, e.seq) >= ledger.row_place(bound.lane, bound.seq)
                        AND ledger.row_place(e.lane, e.seq) < ledger.row_place(bound.lane + 1, 0)
                        AND e.currency = %(currency)s
                ) AS later
            ), 0)
        END AS net_minor
) AS closing
LEFT JOIN page ON true
ORDER BY page.booked_time DESC, page.lane DESC, page.seq DESC, page.leg DESC

-- name: statement_by_value
-- The same by value time. No index has that order, so all entries of the account are sorted, at most entries_max + 1.
WITH moved AS (
    SELECT
        e.lane, e.seq, e.leg, e.direction, e.amount_minor, j.intent_id, j.type, j.reference, j.value_time, j.booked_time,
        coalesce(j.value_time, j.booked_time) AS moved_time
    FROM (
        SELECT lane, seq, leg, direction, amount_minor
        FROM ledger.entry
        WHERE
            account_id = (
                SELECT a.account_id FROM ledger.account AS a WHERE a.tenant = %(tenant)s AND a.address = %(address)s
            )
            AND currency = %(currency)s
        LIMIT (SELECT %(entries_max)s::integer + 1)
    ) AS e
    INNER JOIN ledger.journal AS j ON j.lane = e.lane AND j.seq = e.seq
),

before AS (
    SELECT *
    FROM moved
    WHERE
        (moved_time, lane, seq, leg)
        < (%(time)s::bigint, %(lane)s::integer, %(seq)s::bigint, %(leg)s::smallint)
),

page AS (
    SELECT *
    FROM before
    WHERE moved_time >= %(since)s::bigint
    ORDER BY moved_time DESC, lane DESC, seq DESC, leg DESC
    LIMIT %(limit)s::integer
)

SELECT
    closing.net_minor, closing.entries, page.lane, page.seq, page.leg, page.direction, page.amount_minor, page.intent_id,
    page.type, page.reference, page.value_time, page.booked_time
FROM (
    SELECT
        (SELECT count(*) FROM moved) AS entries,
        (SELECT coalesce(sum(direction * amount_minor), 0) FROM before) AS net_minor
) AS closing
LEFT JOIN page ON true
ORDER BY page.moved_time DESC, page.lane DESC, page.seq DESC, page.leg DESC

-- name: trial_balance
-- For each currency and class of accounts: turnover on both sides, and the sums of debit and of credit balances.
SELECT
    of_account.currency, of_account.account_class, count(*) AS accounts,
    sum(of_account.debits_minor) AS debits_minor, sum(of_account.credits_minor) AS credits_minor,
    sum(greatest(of_account.debits_minor - of_account.credits_minor, 0)) AS debit_balances_minor,
    sum(greatest(of_account.credits_minor - of_account.debits_minor, 0)) AS credit_balances_minor
FROM (
    SELECT
        a.account_class, b.currency, sum(b.debits_minor) AS debits_minor, sum(b.credits_minor) AS credits_minor
    FROM ledger.account AS a
    INNER JOIN ledger.balance AS b ON b.account_id = a.account_id
    WHERE a.tenant = %(tenant)s
    GROUP BY a.account_id, a.account_class, b.currency
) AS of_account
GROUP BY of_account.currency, of_account.account_class
ORDER BY of_account.currency COLLATE "C", of_account.account_class COLLATE "C"

-- name: trial_balance_accounts
-- A page of the accounts of one class that hold a currency, in order of address.
SELECT
    a.address, a.account_class, a.normal_direction, b.currency,
    sum(b.debits_minor) AS debits_minor, sum(b.credits_minor) AS credits_minor
FROM ledger.account AS a
INNER JOIN ledger.balance AS b ON b.account_id = a.account_id
WHERE
    a.tenant = %(tenant)s AND a.account_class = %(account_class)s AND b.currency = %(currency)s
    AND a.address > %(after)s
GROUP BY a.address, a.account_class, a.normal_direction, b.currency
ORDER BY a.address
LIMIT %(limit)s::integer
