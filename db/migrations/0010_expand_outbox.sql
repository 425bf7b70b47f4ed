-- The outbox of the capabilities: a change of state and its events commit together, and the relay publishes the events.
CREATE SCHEMA outbox;

-- A lane numbers its events without gaps, in the order of their commits: an append locks the lane until its commit.
CREATE TABLE outbox.lane (
    -- squawk-ignore prefer-bigint-over-int
    lane integer PRIMARY KEY CHECK (lane >= 0),
    next_seq bigint NOT NULL DEFAULT 0,
    -- When the last event was appended, in microseconds since 1970.
    appended_time bigint NOT NULL DEFAULT 0
);
-- domain.events.LANES says how many.
INSERT INTO outbox.lane (lane) SELECT generate_series(0, 7);

CREATE TABLE outbox.event (
    -- squawk-ignore prefer-bigint-over-int
    lane integer NOT NULL,
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    -- The topic without its ending `.events`.
    family text NOT NULL,
    -- The name of the Avro record, in the past tense.
    type text NOT NULL,
    tenant text NOT NULL,
    aggregate text NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    -- Avro in the Schema Registry's wire format, as it goes to Kafka.
    value bytea NOT NULL CHECK (octet_length(value) <= 65536),
    correlation_id text,
    traceparent text,
    occurred_time bigint NOT NULL,
    appended_time bigint NOT NULL,
    PRIMARY KEY (lane, seq)
);
-- Two changes that both believe that they made this version of an aggregate cannot both commit.
CREATE UNIQUE INDEX event_version ON outbox.event (tenant, aggregate, version);

CREATE FUNCTION outbox.append(
    lanes integer [], event_ids uuid [], families text [], types text [], tenants text [], aggregates text [],
    versions bigint [], contents bytea [], correlation_ids text [], traceparents text [], occurred_times bigint []
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    appended integer;
    now_microseconds bigint;
BEGIN
    -- In order, so that two appends do not deadlock. The statements below see what the locks waited for.
    PERFORM FROM outbox.lane AS l WHERE l.lane = ANY(lanes) ORDER BY l.lane FOR NO KEY UPDATE;
    now_microseconds := (extract(EPOCH FROM clock_timestamp()) * 1000000)::bigint;
    INSERT INTO outbox.event
    SELECT
        g.lane, l.next_seq + row_number() OVER (PARTITION BY g.lane ORDER BY g.place) - 1, g.event_id, g.family, g.type,
        g.tenant, g.aggregate, g.version, g.value, g.correlation_id, g.traceparent, g.occurred_time, now_microseconds
    FROM unnest(
        lanes, event_ids, families, types, tenants, aggregates, versions, contents, correlation_ids, traceparents,
        occurred_times
    ) WITH ORDINALITY AS g (
        lane, event_id, family, type, tenant, aggregate, version, value, correlation_id, traceparent, occurred_time,
        place
    )
    INNER JOIN outbox.lane AS l ON l.lane = g.lane;
    GET DIAGNOSTICS appended = ROW_COUNT;
    IF appended <> cardinality(lanes) THEN
        RAISE EXCEPTION 'the outbox has no such lane: %', lanes USING ERRCODE = 'foreign_key_violation';
    END IF;
    UPDATE outbox.lane AS l
    SET next_seq = l.next_seq + counted.number, appended_time = now_microseconds
    FROM (SELECT g.lane, count(*) AS number FROM unnest(lanes) AS g (lane) GROUP BY g.lane) AS counted
    WHERE l.lane = counted.lane;
    PERFORM pg_notify('ledgerline_outbox', '');
END
$$;
REVOKE EXECUTE ON FUNCTION outbox.append FROM PUBLIC;

GRANT USAGE ON SCHEMA outbox TO ledgerline_api, ledgerline_relay, ledgerline_operator;
GRANT EXECUTE ON FUNCTION outbox.append TO ledgerline_api;
GRANT SELECT ON outbox.lane, outbox.event TO ledgerline_relay, ledgerline_operator;
-- The relay deletes what is published and older than the outbox keeps.
GRANT DELETE ON outbox.event TO ledgerline_relay;
