-- Parked work of the worker, for operators (docs/CLI.md).

-- name: parked
-- Parked work after a place, in the order of parking; of one capability if it is given.
SELECT
    place, part, capability, tenant, subject, task, topic, partition, message_offset, reason, attempts, parked_time, due_time
FROM worker.parked
WHERE place > %(after)s AND (%(capability)s::text IS NULL OR capability = %(capability)s)
ORDER BY place
LIMIT %(rows_max)s

-- name: retry_parked
-- Lets parked work be tried at once: one place, one capability, or all; returns the places.
UPDATE worker.parked
SET due_time = (extract(EPOCH FROM clock_timestamp()) * 1000000)::bigint
WHERE
    (%(place)s::bigint IS NULL OR place = %(place)s)
    AND (%(capability)s::text IS NULL OR capability = %(capability)s)
RETURNING place

-- name: drop_parked
-- Deletes one piece of parked work for ever, and returns what it was.
DELETE FROM worker.parked
WHERE place = %(place)s
RETURNING
    place, part, capability, tenant, subject, task, topic, partition, message_offset, reason, attempts, parked_time, due_time
