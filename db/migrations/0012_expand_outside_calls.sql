-- Outside calls: the one outbox to the world (docs/decisions/0032-outside-calls.md).
CREATE SCHEMA calls;

CREATE TABLE calls.call (
    call_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    -- Names the handler (streams.capabilities).
    kind text NOT NULL,
    -- The idempotency key that the other side gets.
    key text NOT NULL,
    -- What shares a rate limit and a circuit breaker. Ordered as Python orders text.
    destination text COLLATE "C" NOT NULL,
    data jsonb NOT NULL,
    state text NOT NULL DEFAULT 'waiting'
    CHECK (state IN ('waiting', 'under_way', 'unknown', 'answered', 'given_up')),
    -- The claims of the call. The number fences a worker whose lease has ended.
    -- squawk-ignore prefer-bigint-over-int
    attempts integer NOT NULL DEFAULT 0,
    -- When a worker must look at the call, in microseconds since 1970; the end of the lease while it is under way; NULL
    -- if nothing is left to do.
    due_time bigint,
    asked_time bigint NOT NULL,
    -- domain.outside_calls.Fate, once it is decided.
    fate text CHECK (fate IN ('done', 'refused', 'given_up', 'unknown')),
    -- squawk-ignore prefer-bigint-over-int
    answer_status integer,
    answer_body bytea CHECK (octet_length(answer_body) <= 65536),
    last_failure text NOT NULL DEFAULT '',
    UNIQUE (kind, key)
);
-- Claims go from destination to destination, so that the backlog of one delays no other.
CREATE INDEX call_due ON calls.call (destination, due_time) WHERE due_time IS NOT NULL;
-- Settled calls are deleted by age, kind by kind.
CREATE INDEX call_settled ON calls.call (kind, asked_time) WHERE due_time IS NULL;

GRANT USAGE ON SCHEMA calls TO ledgerline_worker, ledgerline_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON calls.call TO ledgerline_worker;
GRANT SELECT ON calls.call TO ledgerline_operator;
