-- The demo's counts of a ledger whose contents it knows, and a change of one row that bypasses the ledger.

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
-- A posted row with two legs in the middle of the longest lane. The row stays balanced if both legs change alike.
SELECT j.lane, j.seq
FROM ledger.journal AS j
INNER JOIN (SELECT lane, next_seq FROM ledger.lane ORDER BY next_seq DESC, lane LIMIT 1) AS l ON l.lane = j.lane
WHERE j.outcome = 'posted' AND j.leg_count = 2 AND j.seq >= l.next_seq / 2
ORDER BY j.seq
LIMIT 1

-- name: audit_breaks
-- The places of the unresolved breaks that the running audit agent has found.
SELECT DISTINCT lane, seq
FROM audit.break
WHERE state <> 'resolved'
ORDER BY lane, seq

-- name: without_triggers
-- Switches triggers off until the transaction ends, also those that forbid changes of entries. Only a superuser may.
SELECT set_config('session_replication_role', 'replica', true)

-- name: alter
-- Raise every leg of one journal row by the same amount, so that the row still balances.
UPDATE ledger.entry
SET amount_minor = amount_minor + %(by_minor)s::bigint
WHERE
    lane = %(lane)s
    AND ledger.leg_place(seq, leg) >= ledger.leg_place(%(seq)s, 0)
    AND ledger.leg_place(seq, leg) < ledger.leg_place(%(seq)s::bigint + 1, 0)
