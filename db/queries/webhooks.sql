-- Webhooks: endpoints, messages, deliveries and their attempts (docs/WEBHOOKS.md). Times are microseconds since 1970.

-- name: set_tenant
-- Sets whose rows the API's transaction sees.
SELECT set_config('ledgerline.tenant', %(tenant)s, TRUE)

-- name: add_endpoint
-- Adds an endpoint, unless its key was used or the tenant has the most endpoints that it may have.
INSERT INTO webhooks.endpoint (
    tenant, endpoint_id, url, description, filters, accounts, ordered, secret, created_key, created_digest,
    created_time, changed_time
)
SELECT
    %(tenant)s, %(endpoint_id)s, %(url)s, %(description)s, %(filters)s::text[], %(accounts)s::text[],
    %(ordered)s::boolean, %(secret)s, %(created_key)s, %(created_digest)s, %(now)s, %(now)s
WHERE (SELECT count(*) FROM webhooks.endpoint WHERE tenant = %(tenant)s) < %(endpoints_max)s
ON CONFLICT (tenant, created_key) DO NOTHING
RETURNING *

-- name: endpoint_of_key
-- The endpoint that was created with an idempotency key.
SELECT * FROM webhooks.endpoint WHERE tenant = %(tenant)s AND created_key = %(created_key)s

-- name: endpoint
-- One endpoint.
SELECT * FROM webhooks.endpoint WHERE tenant = %(tenant)s AND endpoint_id = %(endpoint_id)s

-- name: endpoints
-- A page of endpoints in the order of their ids.
SELECT * FROM webhooks.endpoint
WHERE tenant = %(tenant)s AND endpoint_id > %(after)s
ORDER BY endpoint_id
LIMIT %(rows_max)s

-- name: change_endpoint
-- Changes an endpoint if it has the version that the caller read.
UPDATE webhooks.endpoint
SET
    url = coalesce(%(url)s, url), description = coalesce(%(description)s, description),
    filters = coalesce(%(filters)s::text[], filters), accounts = coalesce(%(accounts)s::text[], accounts),
    ordered = coalesce(%(ordered)s::boolean, ordered), enabled = coalesce(%(enabled)s::boolean, enabled),
    disabled_because = CASE WHEN %(enabled)s::boolean IS NULL THEN disabled_because ELSE '' END,
    failing_since = CASE WHEN %(enabled)s::boolean THEN NULL ELSE failing_since END,
    version = version + 1, changed_time = %(now)s
WHERE tenant = %(tenant)s AND endpoint_id = %(endpoint_id)s AND version = %(version)s
RETURNING *

-- name: rotate_secret
-- Gives an endpoint a new secret; the present one signs until a time.
UPDATE webhooks.endpoint
SET
    previous_secret = secret, previous_until = %(previous_until)s, secret = %(secret)s, rotated_key = %(rotated_key)s,
    version = version + 1, changed_time = %(now)s
WHERE tenant = %(tenant)s AND endpoint_id = %(endpoint_id)s AND version = %(version)s
RETURNING *

-- name: delete_endpoint
-- Deletes an endpoint with its deliveries, if it has the version that the caller read.
DELETE FROM webhooks.endpoint
WHERE tenant = %(tenant)s AND endpoint_id = %(endpoint_id)s AND version = %(version)s
RETURNING endpoint_id

-- name: deliveries
-- A page of an endpoint's deliveries, the latest first.
SELECT d.*, m.type, m.occurred_time
FROM webhooks.delivery AS d
INNER JOIN webhooks.message AS m ON m.tenant = d.tenant AND m.message_id = d.message_id
WHERE
    d.tenant = %(tenant)s AND d.endpoint_id = %(endpoint_id)s AND d.place < %(before)s
    AND (%(state)s::text IS NULL OR d.state = %(state)s)
    AND (%(type)s::text IS NULL OR m.type = %(type)s)
ORDER BY d.place DESC
LIMIT %(rows_max)s

-- name: delivery
-- One delivery of an endpoint.
SELECT d.*, m.type, m.occurred_time, m.body
FROM webhooks.delivery AS d
INNER JOIN webhooks.message AS m ON m.tenant = d.tenant AND m.message_id = d.message_id
WHERE d.tenant = %(tenant)s AND d.endpoint_id = %(endpoint_id)s AND d.delivery_id = %(delivery_id)s

-- name: attempts
-- The attempts of a delivery, in order.
SELECT attempt, attempted_time, status, error, latency_microseconds, excerpt
FROM webhooks.attempt
WHERE tenant = %(tenant)s AND delivery_id = %(delivery_id)s
ORDER BY attempt

-- name: replay
-- Adds a new series of attempts for deliveries of an endpoint: of one id, or of those captured in a period.
INSERT INTO webhooks.delivery (
    tenant, delivery_id, endpoint_id, message_id, series, ordering, state, next_time, created_time
)
SELECT DISTINCT ON (d.message_id)
    d.tenant, gen_random_uuid(), d.endpoint_id, d.message_id, %(series)s, d.ordering, 'waiting', %(now)s::bigint,
    %(now)s::bigint
FROM webhooks.delivery AS d
WHERE
    d.tenant = %(tenant)s AND d.endpoint_id = %(endpoint_id)s AND d.series <> %(series)s
    AND (%(delivery_id)s::uuid IS NULL OR d.delivery_id = %(delivery_id)s)
    AND (%(since)s::bigint IS NULL OR d.created_time >= %(since)s)
    AND (%(until)s::bigint IS NULL OR d.created_time < %(until)s)
    AND (%(state)s::text IS NULL OR d.state = %(state)s)
ORDER BY d.message_id
LIMIT %(rows_max)s
ON CONFLICT (tenant, endpoint_id, message_id, series) DO NOTHING

-- name: count_series
-- How many deliveries a replay began, and one of them.
SELECT count(*) AS number, (array_agg(delivery_id ORDER BY place))[1] AS delivery_id
FROM webhooks.delivery
WHERE tenant = %(tenant)s AND endpoint_id = %(endpoint_id)s AND series = %(series)s

-- name: count_period
-- How many deliveries of a period a replay would repeat, up to a bound.
SELECT count(*) AS number FROM (
    SELECT DISTINCT message_id FROM webhooks.delivery
    WHERE
        tenant = %(tenant)s AND endpoint_id = %(endpoint_id)s
        AND created_time >= %(since)s AND created_time < %(until)s
        AND (%(state)s::text IS NULL OR state = %(state)s)
    LIMIT %(rows_max)s
) AS found

-- name: add_messages
-- Stores the bodies of messages, each once.
INSERT INTO webhooks.message (tenant, message_id, type, ordering, body, occurred_time, stored_time)
SELECT g.tenant, g.message_id, g.type, g.ordering, g.body, g.occurred_time, %(now)s
FROM
    unnest(
        %(tenants)s::text[], %(message_ids)s::text[], %(types)s::text[], %(orderings)s::text[], %(bodies)s::bytea[],
        %(occurred_times)s::bigint[]
    ) AS g (tenant, message_id, type, ordering, body, occurred_time)
ON CONFLICT (tenant, message_id) DO NOTHING

-- name: lock_endpoints
-- Locks endpoints in order, so that captures and answers of ordered deliveries follow each other.
SELECT tenant, endpoint_id, ordered, enabled, failing_since, notices
FROM webhooks.endpoint
WHERE endpoint_id = any(%(endpoint_ids)s::uuid[])
ORDER BY endpoint_id
FOR NO KEY UPDATE

-- name: add_deliveries
-- Stores deliveries in order; one to an ordered endpoint is held while an earlier one of its ordering is not settled.
INSERT INTO webhooks.delivery (
    tenant, delivery_id, endpoint_id, message_id, series, ordering, state, next_time, created_time
)
SELECT
    g.tenant, g.delivery_id, g.endpoint_id, g.message_id, g.series, g.ordering,
    CASE
        WHEN
            g.ordered AND (
                row_number() OVER (PARTITION BY g.tenant, g.endpoint_id, g.ordering ORDER BY g.place) > 1
                OR EXISTS (
                    SELECT FROM webhooks.delivery AS d
                    WHERE
                        d.tenant = g.tenant AND d.endpoint_id = g.endpoint_id AND d.ordering = g.ordering
                        AND d.state IN ('held', 'waiting')
                )
            )
            THEN 'held'
        ELSE 'waiting'
    END,
    %(next_time)s::bigint, %(now)s::bigint
FROM
    unnest(
        %(tenants)s::text[], %(delivery_ids)s::uuid[], %(endpoint_ids)s::uuid[], %(message_ids)s::text[],
        %(series)s::text[], %(orderings)s::text[], %(ordered)s::boolean[]
    ) WITH ORDINALITY AS g (tenant, delivery_id, endpoint_id, message_id, series, ordering, ordered, place)
INNER JOIN webhooks.endpoint AS e ON e.tenant = g.tenant AND e.endpoint_id = g.endpoint_id
ORDER BY g.place
ON CONFLICT (tenant, endpoint_id, message_id, series) DO NOTHING
RETURNING tenant, delivery_id, endpoint_id, state

-- name: endpoints_version
-- A number that changes with each change of any endpoint.
SELECT version FROM webhooks.endpoints_version

-- name: enabled_endpoints
-- What all enabled endpoints want.
SELECT tenant, endpoint_id, filters, accounts, ordered FROM webhooks.endpoint WHERE enabled ORDER BY endpoint_id

-- name: claim
-- Takes deliveries that are due, a few of each endpoint, so that no other worker takes them for the time of a lease.
WITH due AS (
    SELECT d.tenant, d.delivery_id, d.attempts
    FROM webhooks.endpoint AS e
    CROSS JOIN LATERAL (
        SELECT w.tenant, w.delivery_id, w.attempts
        FROM webhooks.delivery AS w
        WHERE
            w.tenant = e.tenant AND w.endpoint_id = e.endpoint_id AND w.state = 'waiting' AND w.next_time <= %(now)s
        ORDER BY w.next_time
        LIMIT %(endpoint_max)s
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS d
    WHERE e.enabled
    LIMIT %(deliveries_max)s
)

UPDATE webhooks.delivery AS d SET next_time = %(leased_until)s
FROM due
WHERE d.tenant = due.tenant AND d.delivery_id = due.delivery_id
RETURNING d.tenant, d.delivery_id, d.endpoint_id, d.attempts

-- name: defer
-- Keeps a delivery from being due before a time, with the reason.
UPDATE webhooks.delivery SET next_time = %(until)s, last_error = %(reason)s
WHERE tenant = %(tenant)s AND delivery_id = %(delivery_id)s AND state = 'waiting'

-- name: prepare
-- What is needed to make the next attempt of waiting deliveries to enabled endpoints. The deliveries are looked up first:
-- without statistics the planner would read all deliveries of each endpoint.
WITH d AS MATERIALIZED (
    SELECT w.place, w.tenant, w.delivery_id, w.endpoint_id, w.message_id, w.attempts
    FROM unnest(%(tenants)s::text[], %(delivery_ids)s::uuid[]) AS g (tenant, delivery_id)
    INNER JOIN webhooks.delivery AS w ON w.tenant = g.tenant AND w.delivery_id = g.delivery_id
    WHERE w.state = 'waiting'
)

SELECT
    d.tenant, d.delivery_id, d.endpoint_id, d.message_id, d.attempts, m.body, e.url, e.secret, e.previous_secret,
    e.previous_until
FROM d
INNER JOIN webhooks.endpoint AS e ON e.tenant = d.tenant AND e.endpoint_id = d.endpoint_id
INNER JOIN webhooks.message AS m ON m.tenant = d.tenant AND m.message_id = d.message_id
WHERE e.enabled
ORDER BY d.place

-- name: settle
-- Stores the results of attempts; an attempt that was stored before changes nothing.
UPDATE webhooks.delivery AS d
SET
    attempts = g.attempt, state = g.state, next_time = g.next_time, last_status = g.status, last_error = g.error,
    latency_microseconds = g.latency,
    settled_time = CASE WHEN g.state = 'waiting' THEN NULL ELSE %(now)s::bigint END
FROM
    unnest(
        %(tenants)s::text[], %(delivery_ids)s::uuid[], %(attempts)s::integer[], %(states)s::text[],
        %(next_times)s::bigint[], %(statuses)s::integer[], %(errors)s::text[], %(latencies)s::bigint[]
    ) AS g (tenant, delivery_id, attempt, state, next_time, status, error, latency)
WHERE d.tenant = g.tenant AND d.delivery_id = g.delivery_id AND d.state = 'waiting' AND d.attempts = g.attempt - 1
RETURNING d.tenant, d.delivery_id, d.endpoint_id, d.ordering, d.state

-- name: add_attempts
-- Stores attempts, each once.
INSERT INTO webhooks.attempt (
    tenant, delivery_id, attempt, attempted_time, status, error, latency_microseconds, excerpt
)
SELECT g.tenant, g.delivery_id, g.attempt, g.attempted_time, g.status, g.error, g.latency, g.excerpt
FROM
    unnest(
        %(tenants)s::text[], %(delivery_ids)s::uuid[], %(attempts)s::integer[], %(attempted_times)s::bigint[],
        %(statuses)s::integer[], %(errors)s::text[], %(latencies)s::bigint[], %(excerpts)s::text[]
    ) AS g (tenant, delivery_id, attempt, attempted_time, status, error, latency, excerpt)
WHERE EXISTS (SELECT FROM webhooks.delivery AS d WHERE d.tenant = g.tenant AND d.delivery_id = g.delivery_id)
ON CONFLICT DO NOTHING

-- name: release
-- Lets held deliveries go that are now the first of their ordering.
UPDATE webhooks.delivery AS d SET state = 'waiting', next_time = %(next_time)s
FROM
    unnest(%(tenants)s::text[], %(endpoint_ids)s::uuid[], %(orderings)s::text[])
    AS g (tenant, endpoint_id, ordering)
WHERE
    d.tenant = g.tenant AND d.endpoint_id = g.endpoint_id AND d.ordering = g.ordering AND d.state = 'held'
    AND NOT EXISTS (
        SELECT FROM webhooks.delivery AS e
        WHERE
            e.tenant = d.tenant AND e.endpoint_id = d.endpoint_id AND e.ordering = d.ordering AND e.place < d.place
            AND e.state IN ('held', 'waiting')
    )
RETURNING d.tenant, d.delivery_id, d.endpoint_id

-- name: note_failing
-- Stores since when an endpoint has failed; null after a success.
UPDATE webhooks.endpoint SET failing_since = %(failing_since)s
WHERE tenant = %(tenant)s AND endpoint_id = %(endpoint_id)s

-- name: disable
-- Disables an endpoint, with the reason, and counts the notice.
UPDATE webhooks.endpoint
SET
    enabled = FALSE, disabled_because = %(reason)s, notices = notices + 1, version = version + 1, changed_time = %(now)s
WHERE tenant = %(tenant)s AND endpoint_id = %(endpoint_id)s AND enabled
RETURNING notices, url

-- name: prune
-- Deletes old messages whose deliveries are all settled, with these deliveries.
DELETE FROM webhooks.message AS m
WHERE (m.tenant, m.message_id) IN (
    SELECT o.tenant, o.message_id
    FROM webhooks.message AS o
    WHERE o.stored_time < %(before_time)s AND NOT EXISTS (
        SELECT FROM webhooks.delivery AS d
        WHERE d.tenant = o.tenant AND d.message_id = o.message_id AND d.state IN ('held', 'waiting')
    )
    ORDER BY o.stored_time
    LIMIT %(rows_max)s
)

-- name: measure
-- How many deliveries wait, and how many endpoints the worker disabled. The oldest is the one that has waited longest
-- for its first attempt, without the deliveries to endpoints that fail: those wait for their endpoint, not for us.
SELECT
    (
        SELECT count(*) FROM webhooks.delivery WHERE state IN ('held', 'waiting')
    ) AS waiting,
    (
        SELECT min(d.created_time)
        FROM webhooks.delivery AS d
        INNER JOIN webhooks.endpoint AS e ON e.tenant = d.tenant AND e.endpoint_id = d.endpoint_id
        WHERE d.state = 'waiting' AND d.attempts = 0 AND e.enabled AND e.failing_since IS NULL
    ) AS oldest_time,
    (
        SELECT count(*) FROM webhooks.endpoint WHERE NOT enabled AND disabled_because <> ''
    ) AS disabled
