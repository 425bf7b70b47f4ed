-- Reconciliation's results, for readers outside of reconciliation.

-- name: lanes
-- Reconciliation's position in every lane of ledger.journal, and its counts by outcome.
SELECT lane, next_offset, next_seq, posted, duplicate, idempotency_conflict, rejected, quarantined
FROM reconciliation.lane
ORDER BY lane

-- name: sums
-- Reconciliation's own sums over the accounts whose address begins with this prefix, which ends with a colon.
SELECT address, currency, sum(debits_minor) AS debits_minor, sum(credits_minor) AS credits_minor
FROM reconciliation.balance
WHERE
    tenant = %(tenant)s AND address >= %(prefix)s::text
    -- The character after the colon, which is a semicolon.
    AND address < rtrim(%(prefix)s::text, ':') || chr(ascii(':') + 1)
GROUP BY address, currency
ORDER BY address, currency
