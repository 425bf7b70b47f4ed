-- The sums of a lifetime outgrow 64 bits (docs/decisions/0015-width-of-sums.md). The release before reads and writes the
-- columns as it did. Postgres writes the table anew under a lock, 2.2 s for a million shards when measured; the exception
-- is written in docs/UPGRADING.md.
ALTER TABLE ledger.balance
-- squawk-ignore changing-column-type
ALTER COLUMN debits_minor TYPE numeric,
-- squawk-ignore changing-column-type
ALTER COLUMN credits_minor TYPE numeric;
