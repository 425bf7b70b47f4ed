-- What the demo counts of a ledger whose contents it knows, and how it alters one row behind the ledger's back.

-- name: outcomes
-- Journal rows by outcome and reason.
SELECT outcome, reason, count(*) AS counted
FROM ledger.journal
GROUP BY outcome, reason

-- name: balances
-- Every balance of a tenant, summed over the lanes' shards: debits less credits.
SELECT a.address, b.currency, sum(b.debits_minor - b.credits_minor) AS balance_minor
FROM ledger.balance AS b
INNER JOIN ledger.account AS a ON a.account_id = b.account_id
WHERE a.tenant = %(tenant)s
GROUP BY a.address, b.currency

-- name: sums
-- The sums of all entries per currency, from the entries themselves.
SELECT
    currency,
    sum(amount_minor) FILTER (WHERE direction = 1) AS debits_minor,
    sum(amount_minor) FILTER (WHERE direction = -1) AS credits_minor,
    count(*) AS entries
FROM ledger.entry
GROUP BY currency

-- name: victim
-- A posted row in the middle of the longest lane, which has just two legs: altering both alike keeps it balanced.
SELECT j.lane, j.seq
FROM ledger.journal AS j
INNER JOIN (SELECT lane, next_seq FROM ledger.lane ORDER BY next_seq DESC, lane LIMIT 1) AS l ON l.lane = j.lane
WHERE j.outcome = 'posted' AND j.leg_count = 2 AND j.seq >= l.next_seq / 2
ORDER BY j.seq
LIMIT 1

-- name: audit_breaks
-- Where the running audit agent sees the ledger altered.
SELECT DISTINCT lane, seq
FROM audit.break
WHERE state <> 'resolved'
ORDER BY lane, seq

-- name: without_triggers
-- What only a superuser may: the triggers that keep entries as they are stay silent until the transaction's end.
SELECT set_config('session_replication_role', 'replica', true)

-- name: alter
-- Raise every leg of one journal row, which still balances afterwards.
UPDATE ledger.entry
SET amount_minor = amount_minor + %(by_minor)s::bigint
WHERE
    lane = %(lane)s
    AND ledger.leg_place(seq, leg) >= ledger.leg_place(%(seq)s, 0)
    AND ledger.leg_place(seq, leg) < ledger.leg_place(%(seq)s::bigint + 1, 0)
