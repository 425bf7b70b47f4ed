-- The outbox: events that commit with the changes of state that they tell of (docs/decisions/0029-outbox.md).

-- name: append
-- Appends events, and locks their lanes until the commit: this is the last statement of a transaction.
SELECT outbox.append(
    %(lanes)s::integer [], %(event_ids)s::uuid [], %(families)s::text [], %(types)s::text [], %(tenants)s::text [],
    %(aggregates)s::text [], %(versions)s::bigint [], %(contents)s::bytea [], %(correlation_ids)s::text [],
    %(traceparents)s::text [], %(occurred_times)s::bigint []
)

-- name: lanes
-- The next seq of each lane that an instance of the relay has.
SELECT lane, next_seq, appended_time AS booked_time
FROM outbox.lane
WHERE lane %% %(instances)s = %(instance)s
ORDER BY lane

-- name: events
-- Events of a lane from a seq on, in order.
SELECT
    lane, seq, event_id, family, type, tenant, aggregate, version, value, correlation_id, traceparent, occurred_time,
    appended_time
FROM outbox.event
WHERE lane = %(lane)s AND seq >= %(first_seq)s
ORDER BY seq
LIMIT %(events_max)s

-- name: prune
-- Deletes published events that were appended before a time, the oldest first.
DELETE FROM outbox.event
WHERE lane = %(lane)s AND seq IN (
    SELECT e.seq
    FROM outbox.event AS e
    WHERE e.lane = %(lane)s AND e.seq < %(published_seq)s AND e.appended_time < %(before_time)s
    ORDER BY e.seq
    LIMIT %(events_max)s
)

-- name: listen
-- Subscribes to the notification of each append.
LISTEN ledgerline_outbox
