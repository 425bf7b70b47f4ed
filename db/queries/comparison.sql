-- The contents of one of two ledgers that are compared; by address, because the ids of accounts differ.

-- name: lanes
-- Every lane that has a row.
SELECT lane, topic, topic_id, first_offset, next_offset, next_seq, head, booked_time
FROM ledger.lane
WHERE next_seq > 0
ORDER BY lane

-- name: journal
-- Journal rows of a range of a lane, with all columns.
SELECT *
FROM ledger.journal
WHERE lane = %(lane)s AND seq >= %(first_seq)s AND seq < %(next_seq)s
ORDER BY seq

-- name: entry
-- The entries of a range of a lane's rows.
SELECT
    e.seq, e.leg, a.tenant, a.address, a.account_class, a.normal_direction, a.floor_minor, e.direction, e.amount_minor,
    e.currency
FROM ledger.entry AS e
LEFT JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE
    e.lane = %(lane)s
    AND ledger.leg_place(e.seq, e.leg) >= ledger.leg_place(%(first_seq)s, 0)
    AND ledger.leg_place(e.seq, e.leg) < ledger.leg_place(%(next_seq)s, 0)
ORDER BY ledger.leg_place(e.seq, e.leg)

-- name: quarantine
-- The raw bytes behind the quarantined rows of a range of a lane.
SELECT seq, key, value, headers
FROM ledger.quarantine
WHERE lane = %(lane)s AND seq >= %(first_seq)s AND seq < %(next_seq)s
ORDER BY seq

-- name: balances
-- A lane's shard of every balance.
SELECT a.tenant, a.address, b.currency, b.debits_minor, b.credits_minor, b.seq
FROM ledger.balance AS b
LEFT JOIN ledger.account AS a ON a.account_id = b.account_id
WHERE b.lane = %(lane)s
ORDER BY a.tenant, a.address, b.currency

-- name: balances_until
-- A lane's shards as they were before a seq, computed from the entries.
SELECT
    a.tenant, a.address, e.currency,
    coalesce(sum(e.amount_minor) FILTER (WHERE e.direction = 1), 0) AS debits_minor,
    coalesce(sum(e.amount_minor) FILTER (WHERE e.direction = -1), 0) AS credits_minor,
    max(e.seq) AS seq
FROM ledger.entry AS e
LEFT JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE e.lane = %(lane)s AND ledger.leg_place(e.seq, e.leg) < ledger.leg_place(%(next_seq)s, 0)
GROUP BY a.tenant, a.address, e.currency
ORDER BY a.tenant, a.address, e.currency
