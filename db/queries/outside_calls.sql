-- name: add
-- Stores calls that capabilities ask for. The order of the keys keeps two transactions from a deadlock.
INSERT INTO calls.call (tenant, kind, key, destination, data, due_time, asked_time)
SELECT g.tenant, g.kind, g.key, g.destination, g.data::jsonb, %(now)s::bigint, %(now)s::bigint
FROM unnest(
    %(tenants)s::text [], %(kinds)s::text [], %(keys)s::text [], %(destinations)s::text [], %(data)s::text []
) AS g (tenant, kind, key, destination, data)
ORDER BY g.kind, g.key
ON CONFLICT (kind, key) DO NOTHING

-- name: tell
-- Wakes the workers' outside calls at the commit.
SELECT pg_notify('ledgerline_calls', '')

-- name: listen
-- Subscribes to new calls.
LISTEN ledgerline_calls

-- name: claim
-- Claims due calls, from each destination after %(after)s at most its room, under a lease.
WITH RECURSIVE destinations AS (
    (
        SELECT c.destination, 1 AS place
        FROM calls.call AS c
        WHERE c.due_time IS NOT NULL AND c.destination > %(after)s
        ORDER BY c.destination
        LIMIT 1
    )
    UNION ALL
    SELECT
        (
            SELECT c.destination
            FROM calls.call AS c
            WHERE c.due_time IS NOT NULL AND c.destination > d.destination
            ORDER BY c.destination
            LIMIT 1
        ),
        d.place + 1
    FROM destinations AS d
    WHERE d.destination IS NOT NULL AND d.place < %(destinations_max)s
),

rooms AS (
    SELECT d.destination, d.place, coalesce(g.room, %(each_max)s) AS room
    FROM destinations AS d
    LEFT JOIN unnest(%(limited)s::text [], %(rooms)s::int []) AS g (destination, room) ON d.destination = g.destination
    WHERE d.destination IS NOT NULL
),

chosen AS (
    SELECT picked.call_id, picked.state
    FROM (SELECT destination, room FROM rooms WHERE room > 0 ORDER BY place) AS r
    CROSS JOIN LATERAL (
        SELECT c.call_id, c.state
        FROM calls.call AS c
        WHERE c.destination = r.destination AND c.due_time <= %(now)s
        ORDER BY c.due_time
        LIMIT r.room
        FOR UPDATE SKIP LOCKED
    ) AS picked
    LIMIT %(calls_max)s
),

claimed AS (
    UPDATE calls.call AS c
    SET
        state = CASE WHEN chosen.state IN ('answered', 'given_up') THEN chosen.state ELSE 'under_way' END,
        attempts = c.attempts + 1, due_time = %(lease_end)s
    FROM chosen
    WHERE c.call_id = chosen.call_id
    RETURNING
        c.call_id, c.tenant, c.kind, c.key, c.destination, c.data, c.attempts, c.asked_time,
        chosen.state AS state_before, c.fate, c.answer_status, c.answer_body, c.last_failure
)

SELECT
    (SELECT d.destination FROM destinations AS d WHERE d.place = %(destinations_max)s) AS last_destination,
    claimed.call_id, claimed.tenant, claimed.kind, claimed.key, claimed.destination, claimed.data, claimed.attempts,
    claimed.asked_time, claimed.state_before, claimed.fate, claimed.answer_status, claimed.answer_body,
    claimed.last_failure
FROM (SELECT 1) AS one
LEFT JOIN claimed ON true

-- name: store
-- Stores the results of attempts, but not of a claim whose lease another worker has taken; returns what it stored.
UPDATE calls.call AS c
SET
    state = g.state, due_time = g.due_time, fate = g.fate, answer_status = g.answer_status,
    answer_body = g.answer_body, last_failure = g.last_failure
FROM unnest(
    %(call_ids)s::bigint [], %(attempts)s::int [], %(states)s::text [], %(due_times)s::bigint [], %(fates)s::text [],
    %(answer_statuses)s::int [], %(answer_bodies)s::bytea [], %(last_failures)s::text []
) AS g (call_id, attempts, state, due_time, fate, answer_status, answer_body, last_failure)
WHERE c.call_id = g.call_id AND c.attempts = g.attempts AND c.due_time IS NOT NULL
RETURNING c.call_id

-- name: delay
-- Sets when a worker looks at a call again, because its handler failed.
UPDATE calls.call SET due_time = %(due_time)s, last_failure = %(reason)s
WHERE call_id = %(call_id)s AND attempts = %(attempts)s

-- name: prune
-- Deletes calls of a kind that are settled and were asked for before a time, the oldest first. Calls with an unknown
-- outcome stay, as people must look at them.
DELETE FROM calls.call WHERE call_id IN (
    SELECT c.call_id
    FROM calls.call AS c
    WHERE c.kind = %(kind)s AND c.due_time IS NULL AND c.asked_time < %(before_time)s AND c.state <> 'unknown'
    ORDER BY c.asked_time
    LIMIT %(calls_max)s
)

-- name: backlog
-- Counts the calls that have something left to do, by kind, and finds the time of the oldest.
SELECT c.kind, count(*) AS number, min(c.asked_time) AS oldest_time
FROM calls.call AS c
WHERE c.due_time IS NOT NULL
GROUP BY c.kind
