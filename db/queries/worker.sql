-- The worker: positions of its parts, intents that wait for Kafka, and parked work (docs/decisions/0030-shared-parts.md).

-- name: begin_positions
-- Adds the positions of parts that have never read these partitions.
INSERT INTO worker.position (part, topic, partition, next_offset)
SELECT p.part, %(topic)s, n.partition, 0
FROM unnest(%(parts)s::text []) AS p (part)
CROSS JOIN unnest(%(partitions)s::integer []) AS n (partition)
ORDER BY p.part, n.partition
ON CONFLICT DO NOTHING

-- name: positions
-- The positions of parts in partitions of one topic.
SELECT part, topic, partition, next_offset
FROM worker.position
WHERE part = ANY(%(parts)s::text []) AND topic = %(topic)s AND partition = ANY(%(partitions)s::integer [])

-- name: lock_positions
-- Locks the positions of parts in several partitions, in order, and returns them.
SELECT part, topic, partition, next_offset
FROM worker.position
WHERE part = ANY(%(parts)s::text [])
    AND (topic, partition) IN (
        SELECT g.topic, g.partition FROM unnest(%(topics)s::text [], %(partitions)s::integer []) AS g (topic, partition)
    )
ORDER BY topic, partition, part
FOR NO KEY UPDATE

-- name: move_positions
-- Moves the positions of parts in several partitions; a part that is further already stays.
UPDATE worker.position AS p
SET next_offset = g.next_offset
FROM
    unnest(%(topics)s::text [], %(partitions)s::integer [], %(next_offsets)s::bigint []) AS g (topic, partition, next_offset)
WHERE
    p.part = ANY(%(parts)s::text []) AND p.topic = g.topic AND p.partition = g.partition
    AND p.next_offset < g.next_offset

-- name: all_positions
-- All positions, for people.
SELECT part, topic, partition, next_offset FROM worker.position ORDER BY part, topic, partition

-- name: hand_over
-- Stores intents, in order; an intent that waits already is not stored twice.
INSERT INTO worker.intent (intent_id, tenant, capability, record, correlation_id, traceparent, handed_over_time)
SELECT
    g.intent_id, g.tenant, g.capability, g.record::jsonb, g.correlation_id, g.traceparent,
    (extract(EPOCH FROM clock_timestamp()) * 1000000)::bigint
FROM unnest(
    %(intent_ids)s::uuid [], %(tenants)s::text [], %(capabilities)s::text [], %(records)s::text [],
    %(correlation_ids)s::text [], %(traceparents)s::text []
) WITH ORDINALITY AS g (intent_id, tenant, capability, record, correlation_id, traceparent, place)
ORDER BY g.place
ON CONFLICT (intent_id) DO NOTHING

-- name: notify_intents
-- Wakes the sender at the commit.
SELECT pg_notify('ledgerline_handed_over', '')

-- name: listen_intents
-- Subscribes to the notification of each hand-over.
LISTEN ledgerline_handed_over

-- name: waiting_intents
-- The intents that wait, in the order of their hand-over.
SELECT place, record, coalesce(correlation_id, '') AS correlation_id, traceparent
FROM worker.intent
ORDER BY place
LIMIT %(intents_max)s

-- name: forget_intents
-- Deletes the intents that Kafka has acknowledged.
DELETE FROM worker.intent WHERE place = ANY(%(places)s::bigint [])

-- name: count_waiting
-- How many intents wait, and since when the oldest one does.
SELECT count(*) AS number, min(handed_over_time) AS since FROM worker.intent

-- name: take_turn
-- Takes the lock of a part that only one worker runs at a time; it goes with the session, and a silent session ends.
SELECT
    pg_try_advisory_lock(hashtext('ledgerline.worker'), hashtext(%(part)s)) AS taken,
    set_config('idle_session_timeout', %(idle)s, false) AS idle

-- name: parked_subjects
-- Which of these subjects have parked work.
SELECT DISTINCT p.part, p.capability, p.tenant, p.subject
FROM worker.parked AS p
INNER JOIN
    unnest(%(parts)s::text [], %(capabilities)s::text [], %(tenants)s::text [], %(subjects)s::text [])
    AS g (part, capability, tenant, subject)
    ON p.part = g.part AND p.capability = g.capability AND p.tenant = g.tenant AND p.subject = g.subject

-- name: park
-- Parks work; work that is parked already stays as it is.
INSERT INTO worker.parked (
    part, topic, partition, message_offset, capability, task, tenant, subject, message_value, message_headers, reason,
    attempts, parked_time, due_time
) VALUES (
    %(part)s, %(topic)s, %(partition)s, %(message_offset)s, %(capability)s, %(task)s, %(tenant)s, %(subject)s,
    %(message_value)s, %(message_headers)s, %(reason)s, %(attempts)s, %(parked_time)s, %(due_time)s
)
ON CONFLICT DO NOTHING

-- name: due_parked
-- Parked work that is due, of subjects whose earlier work is done; locked, and without what another worker has locked.
SELECT
    p.place, p.part, p.topic, p.partition, p.message_offset, p.capability, p.message_value, p.message_headers, p.attempts
FROM worker.parked AS p
WHERE
    p.part = ANY(%(parts)s::text []) AND p.due_time <= %(now)s
    AND NOT EXISTS (
        SELECT FROM worker.parked AS earlier
        WHERE
            earlier.part = p.part AND earlier.capability = p.capability AND earlier.tenant = p.tenant
            AND earlier.subject = p.subject AND earlier.place < p.place
    )
ORDER BY p.due_time, p.place
LIMIT 1
FOR UPDATE OF p SKIP LOCKED

-- name: forget_parked
-- Deletes parked work that is done.
DELETE FROM worker.parked WHERE place = %(place)s

-- name: postpone_parked
-- Sets when parked work is tried again, and why it failed.
UPDATE worker.parked
SET attempts = attempts + 1, reason = %(reason)s, due_time = %(due_time)s
WHERE place = %(place)s

-- name: count_parked
-- How much work is parked, by part and capability.
SELECT part, capability, count(*) AS number FROM worker.parked GROUP BY part, capability
