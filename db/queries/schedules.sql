-- Schedules (docs/SCHEDULES.md). The API names its tenant first, for row-level security.

-- name: tenant
-- Names the tenant of this transaction.
SELECT set_config('ledgerline.tenant', %(tenant)s, true)

-- name: insert
-- Adds a schedule unless there is one with its id.
INSERT INTO schedules.schedule (
    tenant, schedule_id, version, state, name, intent, start, zone, rrule, missed, retries, retry_pause_seconds,
    rule_time, base, number, local, occurrence_time, attempt, is_in_flight, not_before, skip_before, created_time,
    changed_time, end_reason, trouble, due_time, request_hash
) VALUES (
    %(tenant)s, %(schedule_id)s, %(version)s, %(state)s, %(name)s, %(intent)s, %(start)s, %(zone)s, %(rrule)s,
    %(missed)s, %(retries)s, %(retry_pause_seconds)s, %(rule_time)s, %(base)s, %(number)s, %(local)s,
    %(occurrence_time)s, %(attempt)s, %(is_in_flight)s, %(not_before)s, %(skip_before)s, %(created_time)s,
    %(changed_time)s, %(end_reason)s, %(trouble)s, %(due_time)s, %(request_hash)s
)
ON CONFLICT DO NOTHING

-- name: find
-- One schedule.
SELECT * FROM schedules.schedule WHERE tenant = %(tenant)s AND schedule_id = %(schedule_id)s

-- name: lock
-- One schedule, locked until the commit.
SELECT * FROM schedules.schedule WHERE tenant = %(tenant)s AND schedule_id = %(schedule_id)s FOR NO KEY UPDATE

-- name: list
-- A page of a tenant's schedules, the newest first.
SELECT *
FROM schedules.schedule
WHERE
    tenant = %(tenant)s
    AND (%(state)s::text IS NULL OR state = %(state)s)
    AND (%(due_before)s::bigint IS NULL OR due_time < %(due_before)s)
    AND (created_time, schedule_id) < (%(after_time)s, %(after_id)s::uuid)
ORDER BY created_time DESC, schedule_id DESC
LIMIT %(rows_max)s

-- name: occurrences
-- A page of the occurrences of a schedule, the newest first.
SELECT number, local, occurrence_time, state, attempts, intent_id, reason, detail, next_attempt_time, changed_time
FROM schedules.occurrence
WHERE tenant = %(tenant)s AND schedule_id = %(schedule_id)s AND number < %(before)s
ORDER BY number DESC
LIMIT %(rows_max)s

-- name: update
-- Writes changed fields of a schedule that this transaction has locked.
UPDATE schedules.schedule
SET
    version = %(version)s, state = %(state)s, name = %(name)s, intent = %(intent)s, start = %(start)s,
    zone = %(zone)s, rrule = %(rrule)s, missed = %(missed)s, retries = %(retries)s,
    retry_pause_seconds = %(retry_pause_seconds)s, rule_time = %(rule_time)s, base = %(base)s, number = %(number)s,
    local = %(local)s, occurrence_time = %(occurrence_time)s, attempt = %(attempt)s,
    is_in_flight = %(is_in_flight)s, not_before = %(not_before)s, skip_before = %(skip_before)s,
    changed_time = %(changed_time)s, end_reason = %(end_reason)s, trouble = %(trouble)s, due_time = %(due_time)s
WHERE tenant = %(tenant)s AND schedule_id = %(schedule_id)s

-- name: claim
-- Schedules that are due, the oldest first, locked until the commit; what another clock has locked is passed over.
SELECT *
FROM schedules.schedule
WHERE due_time <= %(now)s
ORDER BY due_time
LIMIT %(items_max)s
FOR NO KEY UPDATE SKIP LOCKED

-- name: move
-- Writes what the clock moves, of many schedules that this transaction has locked.
UPDATE schedules.schedule AS s
SET
    version = m.version, state = m.state, number = m.number, local = m.local, occurrence_time = m.occurrence_time,
    attempt = m.attempt, is_in_flight = m.is_in_flight, not_before = m.not_before, changed_time = m.changed_time,
    end_reason = m.end_reason, trouble = NULL, due_time = m.due_time
FROM unnest(
    %(tenants)s::text [], %(schedule_ids)s::uuid [], %(versions)s::bigint [], %(states)s::text [],
    %(numbers)s::bigint [], %(locals)s::timestamp [], %(occurrence_times)s::bigint [], %(attempts)s::integer [],
    %(flights)s::boolean [], %(not_befores)s::bigint [], %(changed_times)s::bigint [], %(end_reasons)s::text [],
    %(due_times)s::bigint []
) AS m (
    tenant, schedule_id, version, state, number, local, occurrence_time, attempt, is_in_flight, not_before,
    changed_time, end_reason, due_time
)
WHERE s.tenant = m.tenant AND s.schedule_id = m.schedule_id

-- name: note
-- Writes occurrences: new ones, and new states of those that are there.
INSERT INTO schedules.occurrence
SELECT *
FROM unnest(
    %(tenants)s::text [], %(schedule_ids)s::uuid [], %(numbers)s::bigint [], %(versions)s::bigint [],
    %(locals)s::timestamp [], %(occurrence_times)s::bigint [], %(states)s::text [], %(attempts)s::integer [],
    %(intent_ids)s::uuid [], %(reasons)s::text [], %(details)s::text [], %(next_attempt_times)s::bigint [],
    %(changed_times)s::bigint []
)
ON CONFLICT (tenant, schedule_id, number) DO UPDATE
SET
    version = excluded.version, state = excluded.state, attempts = excluded.attempts, intent_id = excluded.intent_id,
    reason = excluded.reason, detail = excluded.detail, next_attempt_time = excluded.next_attempt_time,
    changed_time = excluded.changed_time

-- name: defer
-- Keeps a schedule that the clock failed on from being due, and says why.
UPDATE schedules.schedule
SET not_before = %(until)s, due_time = %(until)s, trouble = %(reason)s
WHERE tenant = %(tenant)s AND schedule_id = %(schedule_id)s
