-- Webhooks: endpoints of tenants, and what is delivered to them (docs/WEBHOOKS.md). Times are microseconds since 1970.
CREATE SCHEMA webhooks;

CREATE TABLE webhooks.endpoint (
    tenant text NOT NULL,
    endpoint_id uuid NOT NULL,
    url text NOT NULL,
    description text NOT NULL,
    -- Types of events, such as ledger.posted, schedule.* or *.
    filters text [] NOT NULL,
    -- Addresses and beginnings of addresses; empty for all.
    accounts text [] NOT NULL,
    -- Deliveries of one lane or aggregate wait for each other.
    ordered boolean NOT NULL,
    enabled boolean NOT NULL DEFAULT TRUE,
    -- Why the worker disabled it; empty if it is enabled, or a person disabled it.
    disabled_because text NOT NULL DEFAULT '',
    -- The worker signs with these. docs/SECURITY.md says how they are protected.
    secret bytea NOT NULL CHECK (octet_length(secret) BETWEEN 24 AND 64),
    previous_secret bytea,
    previous_until bigint,
    -- Idempotency keys of the creation, with the digest of its body, and of the last rotation.
    created_key text NOT NULL,
    created_digest bytea NOT NULL,
    rotated_key text,
    -- The first failed attempt since the last success.
    failing_since bigint,
    -- How often the worker disabled it: the version of the last notice's event.
    notices bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 1,
    created_time bigint NOT NULL,
    changed_time bigint NOT NULL,
    PRIMARY KEY (tenant, endpoint_id),
    UNIQUE (tenant, created_key)
);

-- The worker keeps all endpoints in memory, and reads them again when this number changes.
CREATE TABLE webhooks.endpoints_version (
    version bigint NOT NULL
);
INSERT INTO webhooks.endpoints_version (version) VALUES (0);

CREATE FUNCTION webhooks.count_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    UPDATE webhooks.endpoints_version SET version = version + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER endpoint_changed AFTER INSERT OR DELETE
OR UPDATE OF url, filters, accounts, ordered, enabled ON webhooks.endpoint
FOR EACH STATEMENT EXECUTE FUNCTION webhooks.count_change();

-- A body is stored once, for all endpoints that get it.
CREATE TABLE webhooks.message (
    tenant text NOT NULL,
    message_id text NOT NULL,
    type text NOT NULL,
    ordering text NOT NULL,
    body bytea NOT NULL CHECK (octet_length(body) <= 65536),
    occurred_time bigint NOT NULL,
    stored_time bigint NOT NULL,
    PRIMARY KEY (tenant, message_id)
);
CREATE INDEX message_stored ON webhooks.message (stored_time);

CREATE TABLE webhooks.delivery (
    -- The order of capture, in which an ordered endpoint gets its deliveries.
    place bigint GENERATED ALWAYS AS IDENTITY,
    tenant text NOT NULL,
    delivery_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    message_id text NOT NULL,
    -- Empty for the first series of attempts; each replay begins a series, named by its idempotency key.
    series text NOT NULL,
    ordering text NOT NULL,
    -- held: waits for an earlier delivery of its ordering. waiting: has a next attempt. delivered and failed are final.
    state text NOT NULL CHECK (state IN ('held', 'waiting', 'delivered', 'failed')),
    -- squawk-ignore prefer-bigint-over-int
    attempts integer NOT NULL DEFAULT 0,
    next_time bigint,
    -- squawk-ignore prefer-bigint-over-int
    last_status integer,
    last_error text NOT NULL DEFAULT '',
    latency_microseconds bigint,
    created_time bigint NOT NULL,
    settled_time bigint,
    PRIMARY KEY (tenant, delivery_id),
    UNIQUE (tenant, endpoint_id, message_id, series),
    FOREIGN KEY (tenant, endpoint_id) REFERENCES webhooks.endpoint ON DELETE CASCADE,
    FOREIGN KEY (tenant, message_id) REFERENCES webhooks.message ON DELETE CASCADE
);
CREATE INDEX delivery_listed ON webhooks.delivery (tenant, endpoint_id, place);
CREATE INDEX delivery_message ON webhooks.delivery (tenant, message_id);
CREATE INDEX delivery_due ON webhooks.delivery (tenant, endpoint_id, next_time) WHERE state = 'waiting';
CREATE INDEX delivery_ordering ON webhooks.delivery (tenant, endpoint_id, ordering, place)
WHERE state IN ('held', 'waiting');

CREATE TABLE webhooks.attempt (
    tenant text NOT NULL,
    delivery_id uuid NOT NULL,
    -- squawk-ignore prefer-bigint-over-int
    attempt integer NOT NULL,
    attempted_time bigint NOT NULL,
    -- squawk-ignore prefer-bigint-over-int
    status integer,
    error text NOT NULL,
    latency_microseconds bigint NOT NULL,
    -- The beginning of the endpoint's own answer.
    excerpt text NOT NULL CHECK (octet_length(excerpt) <= 1024),
    PRIMARY KEY (tenant, delivery_id, attempt),
    FOREIGN KEY (tenant, delivery_id) REFERENCES webhooks.delivery ON DELETE CASCADE
);

-- The API sees the tenant of its transaction only (set_config('ledgerline.tenant', ..., true)); the worker sees all.
ALTER TABLE webhooks.endpoint ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.message ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.delivery ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.attempt ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON webhooks.endpoint TO ledgerline_api
USING (tenant = (SELECT current_setting('ledgerline.tenant', TRUE)));
CREATE POLICY of_tenant ON webhooks.message TO ledgerline_api
USING (tenant = (SELECT current_setting('ledgerline.tenant', TRUE)));
CREATE POLICY of_tenant ON webhooks.delivery TO ledgerline_api
USING (tenant = (SELECT current_setting('ledgerline.tenant', TRUE)));
CREATE POLICY of_tenant ON webhooks.attempt TO ledgerline_api
USING (tenant = (SELECT current_setting('ledgerline.tenant', TRUE)));
CREATE POLICY of_worker ON webhooks.endpoint TO ledgerline_worker USING (TRUE);
CREATE POLICY of_worker ON webhooks.message TO ledgerline_worker USING (TRUE);
CREATE POLICY of_worker ON webhooks.delivery TO ledgerline_worker USING (TRUE);
CREATE POLICY of_worker ON webhooks.attempt TO ledgerline_worker USING (TRUE);

GRANT USAGE ON SCHEMA webhooks TO ledgerline_api, ledgerline_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks.endpoint TO ledgerline_api;
GRANT SELECT, INSERT ON webhooks.message, webhooks.delivery TO ledgerline_api;
GRANT SELECT ON webhooks.attempt TO ledgerline_api;
GRANT SELECT, UPDATE ON webhooks.endpoint TO ledgerline_worker;
GRANT SELECT ON webhooks.endpoints_version TO ledgerline_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks.message, webhooks.delivery, webhooks.attempt TO ledgerline_worker;
