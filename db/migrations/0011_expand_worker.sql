-- The worker: the light agents of the capabilities (docs/decisions/0030-shared-parts.md).
CREATE SCHEMA worker;

-- Where a part of the worker stands in a partition. A part moves it in the transaction that has the effects.
CREATE TABLE worker.position (
    -- `reactions` or `outcomes`. A part keeps its positions when it moves to another process.
    part text NOT NULL,
    topic text NOT NULL,
    -- squawk-ignore prefer-bigint-over-int
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (part, topic, partition)
);

-- Intents that capabilities handed over and that Kafka has not acknowledged yet.
CREATE TABLE worker.intent (
    -- The order of sending. It may have gaps, and nobody keeps a position in it: a row goes once Kafka has the intent.
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    intent_id uuid NOT NULL UNIQUE,
    tenant text NOT NULL,
    capability text NOT NULL,
    -- The record PaymentIntent.
    record jsonb NOT NULL,
    correlation_id text,
    traceparent text,
    handed_over_time bigint NOT NULL
);

-- Work whose handler failed, and later work of the same subject, which waits for it.
CREATE TABLE worker.parked (
    -- The order of the work of a subject.
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    part text NOT NULL,
    topic text NOT NULL,
    -- squawk-ignore prefer-bigint-over-int
    partition integer NOT NULL,
    message_offset bigint NOT NULL,
    capability text NOT NULL,
    -- What failed, for people: the event's type, or the outcome.
    task text NOT NULL,
    tenant text NOT NULL,
    -- Work of one subject is done in order: the aggregate of an event, the first part of an intent's key.
    subject text NOT NULL,
    -- The message as it stands on the topic.
    message_value bytea NOT NULL,
    message_headers jsonb NOT NULL,
    -- Why the last attempt failed; empty if the work only waits for earlier work of its subject.
    reason text NOT NULL,
    -- squawk-ignore prefer-bigint-over-int
    attempts integer NOT NULL,
    parked_time bigint NOT NULL,
    -- The next attempt, in microseconds since 1970.
    due_time bigint NOT NULL,
    UNIQUE (part, capability, topic, partition, message_offset)
);
CREATE INDEX parked_subject ON worker.parked (part, capability, tenant, subject, place);
CREATE INDEX parked_due ON worker.parked (due_time);

GRANT USAGE ON SCHEMA worker TO ledgerline_worker, ledgerline_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON worker.position, worker.intent, worker.parked TO ledgerline_worker;
GRANT SELECT ON worker.position, worker.intent, worker.parked TO ledgerline_operator;
-- An operator lets parked work be tried at once, or drops it.
GRANT UPDATE (due_time), DELETE ON worker.parked TO ledgerline_operator;
-- An operator moves a part by hand (`ledgerline offsets seek`).
GRANT INSERT, UPDATE ON worker.position TO ledgerline_operator;

-- The worker reads the books' frame, by which it finds the lane of an intent.
GRANT USAGE ON SCHEMA ledger TO ledgerline_worker;
GRANT SELECT ON ledger.tenant, ledger.unit, ledger.chart_pattern, ledger.intake, ledger.books_version TO ledgerline_worker;

-- The worker appends the events of handlers, and relays the outbox in place of the relay's process.
GRANT USAGE ON SCHEMA outbox TO ledgerline_worker;
GRANT EXECUTE ON FUNCTION outbox.append TO ledgerline_worker;
GRANT SELECT ON outbox.lane, outbox.event TO ledgerline_worker;
GRANT DELETE ON outbox.event TO ledgerline_worker;

-- What an operator does with parked work is an operation. The CHECK is replaced by a wider one, as in 0005.
-- squawk-ignore ban-drop-constraint
ALTER TABLE ledger.operation DROP CONSTRAINT operation_operation_check;
ALTER TABLE ledger.operation ADD CONSTRAINT operation_operation_check CHECK (operation IN (
    'intake_closed', 'intake_opened', 'lanes_adding', 'lanes_added', 'offsets_told', 'reconciliation_rewound',
    'key_added', 'key_changed', 'key_revoked', 'key_removed',
    'tenant_added', 'unit_added', 'chart_added', 'chart_changed', 'chart_removed',
    'parked_retried', 'parked_dropped'
)) NOT VALID;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE ledger.operation VALIDATE CONSTRAINT operation_operation_check;
