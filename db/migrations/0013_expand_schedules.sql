-- Schedules: intents for later, or repeated (docs/SCHEDULES.md).
CREATE SCHEMA schedules;

CREATE TABLE schedules.schedule (
    tenant text NOT NULL,
    schedule_id uuid NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    state text NOT NULL CHECK (state IN ('active', 'paused', 'ended')),
    name text NOT NULL,
    -- The body of the intent, as POST /v1/intents takes it.
    intent jsonb NOT NULL,
    -- Local times in the zone.
    -- squawk-ignore prefer-timestamp-tz
    start timestamp NOT NULL,
    zone text NOT NULL,
    rrule text,
    missed text NOT NULL CHECK (missed IN ('post', 'skip', 'last')),
    -- squawk-ignore prefer-bigint-over-int
    retries integer NOT NULL,
    -- squawk-ignore prefer-bigint-over-int
    retry_pause_seconds integer NOT NULL,
    rule_time bigint NOT NULL,
    base bigint NOT NULL,
    -- The current occurrence: due later, in flight, or refused and waiting for its next attempt.
    number bigint NOT NULL,
    -- squawk-ignore prefer-timestamp-tz
    local timestamp,
    occurrence_time bigint,
    -- squawk-ignore prefer-bigint-over-int
    attempt integer NOT NULL,
    is_in_flight boolean NOT NULL,
    not_before bigint NOT NULL,
    skip_before bigint NOT NULL,
    created_time bigint NOT NULL,
    changed_time bigint NOT NULL,
    end_reason text,
    trouble text,
    -- When the clock must act, in microseconds since 1970.
    due_time bigint,
    -- SHA-256 of the request that made it: the same idempotency key with another body is refused.
    request_hash bytea NOT NULL,
    PRIMARY KEY (tenant, schedule_id)
);
CREATE INDEX schedule_due ON schedules.schedule (due_time) WHERE due_time IS NOT NULL;
CREATE INDEX schedule_created ON schedules.schedule (tenant, created_time DESC, schedule_id DESC);

CREATE TABLE schedules.occurrence (
    tenant text NOT NULL,
    schedule_id uuid NOT NULL,
    -- 1, 2, 3, in order.
    number bigint NOT NULL,
    -- The schedule's version that the row was last changed with.
    version bigint NOT NULL,
    -- squawk-ignore prefer-timestamp-tz
    local timestamp NOT NULL,
    occurrence_time bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('sent', 'posted', 'retrying', 'refused', 'skipped')),
    -- squawk-ignore prefer-bigint-over-int
    attempts integer NOT NULL,
    intent_id uuid,
    reason text,
    detail text,
    next_attempt_time bigint,
    changed_time bigint NOT NULL,
    PRIMARY KEY (tenant, schedule_id, number)
);

ALTER TABLE schedules.schedule ENABLE ROW LEVEL SECURITY;
ALTER TABLE schedules.occurrence ENABLE ROW LEVEL SECURITY;
-- The API names its tenant in each transaction; without a tenant it sees nothing.
CREATE POLICY of_tenant ON schedules.schedule TO ledgerline_api
USING (tenant = current_setting('ledgerline.tenant', true));
CREATE POLICY of_tenant ON schedules.occurrence TO ledgerline_api
USING (tenant = current_setting('ledgerline.tenant', true));
CREATE POLICY of_all ON schedules.schedule TO ledgerline_worker, ledgerline_operator USING (true);
CREATE POLICY of_all ON schedules.occurrence TO ledgerline_worker, ledgerline_operator USING (true);

GRANT USAGE ON SCHEMA schedules TO ledgerline_api, ledgerline_worker, ledgerline_operator;
GRANT SELECT, INSERT, UPDATE ON schedules.schedule TO ledgerline_api;
GRANT SELECT ON schedules.occurrence TO ledgerline_api;
GRANT SELECT, UPDATE ON schedules.schedule TO ledgerline_worker;
GRANT SELECT, INSERT, UPDATE ON schedules.occurrence TO ledgerline_worker;
GRANT SELECT ON schedules.schedule, schedules.occurrence TO ledgerline_operator;
