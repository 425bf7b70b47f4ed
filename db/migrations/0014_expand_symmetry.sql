-- Symmetry rules: accounts that must come back to a balance within a term.
-- What moved on the accounts of symmetry rules and may not have come back yet: one row for each record, account, currency
-- and side. The newest rows that make up what an account is away by are unmatched; the older ones are deleted.
CREATE TABLE reconciliation.unmatched (
    tenant text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    -- 1: debit, -1: credit.
    -- squawk-ignore prefer-bigint-over-smallint
    direction smallint NOT NULL CHECK (direction IN (1, -1)),
    -- -1: what was away already when its rule began.
    -- squawk-ignore prefer-bigint-over-int
    lane integer NOT NULL,
    seq bigint NOT NULL,
    amount_minor numeric(38, 0) NOT NULL,
    -- Microseconds since 1970.
    booked_time bigint NOT NULL,
    PRIMARY KEY (tenant, address, currency, direction, lane, seq)
);

GRANT SELECT ON reconciliation.unmatched TO ledgerline_api, ledgerline_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON reconciliation.unmatched TO ledgerline_reconciliation;

-- A lane that is read again brings its rows again.
CREATE OR REPLACE FUNCTION reconciliation.rewind(rewound_lanes integer [], rewound_by text) RETURNS integer []
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    found_lanes integer [];
BEGIN
    SELECT array_agg(stands.lane) INTO found_lanes
    FROM (
        SELECT lane FROM reconciliation.lane WHERE lane = ANY(rewound_lanes) ORDER BY lane FOR UPDATE
    ) AS stands;
    IF found_lanes IS NULL THEN
        RETURN '{}';
    END IF;
    DELETE FROM reconciliation.balance WHERE lane = ANY(found_lanes);
    DELETE FROM reconciliation.total WHERE lane = ANY(found_lanes);
    DELETE FROM reconciliation.gap WHERE lane = ANY(found_lanes);
    DELETE FROM reconciliation.unmatched WHERE lane = ANY(found_lanes);
    UPDATE reconciliation.lane
    SET
        next_offset = 0, next_seq = 0, source_first_offset = NULL, posted = 0, duplicate = 0,
        idempotency_conflict = 0, rejected = 0, quarantined = 0, expired = 0, booked_time = 0
    WHERE lane = ANY(found_lanes);
    INSERT INTO ledger.operation (done_by, operation, detail)
    VALUES (rewound_by, 'reconciliation_rewound', jsonb_build_object('lanes', found_lanes));
    RETURN found_lanes;
END
$$;
