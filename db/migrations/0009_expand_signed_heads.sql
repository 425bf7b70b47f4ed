-- What posting signed of each batch of a lane, with a key that no database knows; docs/PROOF.md has the format. The signature
-- is over the hashes of the journal's rows from first_seq to next_seq - 1, and stands in the transaction that made them.
CREATE TABLE ledger.signed_head (
    next_seq bigint NOT NULL,
    first_seq bigint NOT NULL,
    -- squawk-ignore prefer-bigint-over-int
    lane integer NOT NULL,
    signature bytea NOT NULL CHECK (length(signature) = 64),
    PRIMARY KEY (lane, next_seq) WITH (fillfactor = 100),
    CHECK (first_seq >= 0 AND first_seq < next_seq)
);

CREATE TRIGGER signed_head_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.signed_head
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

GRANT SELECT ON ledger.signed_head TO ledgerline_posting, ledgerline_api,
ledgerline_reconciliation, ledgerline_audit, ledgerline_operator;
GRANT SELECT ON ledger.signed_head TO ledgerline_relay;
GRANT INSERT ON ledger.signed_head TO ledgerline_posting;

-- From the one seq on each record must be covered by a signature of posting, and up to the other each is. Null where none
-- is asked for yet: posting has signed nothing of the lane, or audit does not know posting's key.
ALTER TABLE audit.lane ADD COLUMN signatures_first_seq bigint;
ALTER TABLE audit.lane ADD COLUMN signatures_next_seq bigint;
