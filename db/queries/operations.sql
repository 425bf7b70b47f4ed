-- The queries of the operator's commands: status, offsets, lanes, intake, dlq. Role ledgerline_operator.

-- name: lanes
-- Each lane's position: of posting, of the provers (null if they have not read from the lane), and reconciliation's
-- counts by outcome.
SELECT
    l.lane, l.topic, l.topic_id, l.first_offset, l.next_offset, l.next_seq, l.head, l.booked_time,
    r.next_seq AS reconciled_seq, a.next_seq AS audited_seq, r.posted, r.duplicate, r.idempotency_conflict, r.rejected,
    r.quarantined, (SELECT count(*) FROM reconciliation.gap AS g WHERE g.lane = l.lane) AS missing
FROM ledger.lane AS l
LEFT JOIN reconciliation.lane AS r ON r.lane = l.lane
LEFT JOIN audit.lane AS a ON a.lane = l.lane
ORDER BY l.lane

-- name: outcomes
-- The number of journal rows by outcome: reconciliation's counts, plus a count of only those rows that it has not read.
SELECT total.outcome, sum(total.counted)::bigint AS counted
FROM (
    SELECT counts.outcome, counts.counted
    FROM reconciliation.lane AS r
    CROSS JOIN LATERAL (
        VALUES
        ('posted', r.posted), ('duplicate', r.duplicate), ('idempotency_conflict', r.idempotency_conflict),
        ('rejected', r.rejected), ('quarantined', r.quarantined)
    ) AS counts (outcome, counted)
    UNION ALL
    SELECT j.outcome, count(*) AS counted
    FROM ledger.lane AS l
    LEFT JOIN reconciliation.lane AS r ON r.lane = l.lane
    INNER JOIN ledger.journal AS j ON j.lane = l.lane AND j.seq >= coalesce(r.next_seq, 0)
    GROUP BY j.outcome
) AS total
GROUP BY total.outcome

-- name: breaks
-- The number of unresolved breaks by finder, kind and state.
SELECT found.found_by, found.kind, found.state, count(*) AS breaks, min(found.opened_time) AS first_opened_time
FROM (
    SELECT 'reconciliation' AS found_by, b.kind, b.state, b.opened_time
    FROM reconciliation.break AS b
    WHERE b.state <> 'resolved'
    UNION ALL
    SELECT 'audit' AS found_by, b.kind, b.state, b.opened_time
    FROM audit.break AS b
    WHERE b.state <> 'resolved'
) AS found
GROUP BY found.found_by, found.kind, found.state
ORDER BY found.found_by, found.kind, found.state

-- name: checkpoint
-- The last checkpoint that audit has signed.
SELECT checkpoint, signed_time, key_id, root
FROM audit.checkpoint
ORDER BY checkpoint DESC
LIMIT 1

-- name: agent_positions
-- Each agent's position in each lane of its topic: posting in payments.intents, the provers in ledger.journal.
SELECT agent, lane, next_offset, next_seq
FROM (
    SELECT 'posting' AS agent, lane, next_offset, next_seq FROM ledger.lane
    UNION ALL
    SELECT 'reconciliation' AS agent, lane, next_offset, next_seq FROM reconciliation.lane
    UNION ALL
    SELECT 'audit' AS agent, lane, next_offset, next_seq FROM audit.lane
) AS stands
ORDER BY agent, lane

-- name: rewind_reconciliation
-- Makes reconciliation read these lanes again, and records that; returns the lanes that it had read from.
SELECT reconciliation.rewind(%(lanes)s::integer [], %(done_by)s) AS lanes

-- name: intake
-- The reason why the intake is closed, null if it is open; and the minimum number of lanes, null if none were added.
SELECT closed_because, lanes
FROM ledger.intake

-- name: change_intake
-- Closes or opens the intake; the trigger increases the version of the books, which the API checks.
UPDATE ledger.intake
SET closed_because = %(closed_because)s, lanes = coalesce(%(lanes)s::integer, lanes)

-- name: add_operation
-- Records what an operator did.
INSERT INTO ledger.operation (done_by, operation, detail)
VALUES (%(done_by)s, %(operation)s, %(detail)s)

-- name: operations
-- The operations, the latest first.
SELECT operation_id, done_time, done_by, login, operation, detail
FROM ledger.operation
ORDER BY operation_id DESC
LIMIT %(limit)s

-- name: try_lane_lock
-- Allows one operator at a time to change the lanes; the lock ends with the session.
SELECT pg_try_advisory_lock(1279544147) AS is_locked

-- name: quarantined
-- A page of quarantined rows in the order of booking, after a place. which: all, untried or unsettled, as the view
-- defines them. Without a reason, rows without bytes are left out: no_record, an offset at which nothing was committed.
SELECT
    lane, seq, reason, detail, source_topic, source_offset, booked_time, value_bytes, retries, unconfirmed,
    retry_of_lane, retry_of_seq
FROM ledger.quarantined
WHERE
    CASE WHEN %(reason)s::text IS NULL THEN reason <> 'no_record' ELSE reason = %(reason)s::text END
    AND CASE %(which)s::text WHEN 'untried' THEN is_untried WHEN 'unsettled' THEN is_unsettled ELSE true END
    AND (booked_time, lane, seq) > (%(after_time)s::bigint, %(after_lane)s::integer, %(after_seq)s::bigint)
ORDER BY booked_time, lane, seq
LIMIT %(limit)s::integer

-- name: quarantined_count
-- The number of rows that the query above would list without a limit.
SELECT count(*) AS quarantined
FROM ledger.quarantined
WHERE
    CASE WHEN %(reason)s::text IS NULL THEN reason <> 'no_record' ELSE reason = %(reason)s::text END
    AND CASE %(which)s::text WHEN 'untried' THEN is_untried WHEN 'unsettled' THEN is_unsettled ELSE true END

-- name: quarantined_bytes
-- The raw bytes of one quarantined row, with its journal row.
SELECT
    j.lane, j.seq, j.reason, j.detail, l.topic AS source_topic, l.first_offset + j.seq AS source_offset, j.booked_time,
    j.fingerprint, j.hash, q.key, q.value, q.headers
FROM ledger.quarantine AS q
INNER JOIN ledger.journal AS j ON j.lane = q.lane AND j.seq = q.seq
INNER JOIN ledger.lane AS l ON l.lane = q.lane
WHERE q.lane = %(lane)s AND q.seq = %(seq)s

-- name: retries
-- The retries of a quarantined row and their results. confirmed_time is null if the result is not known yet.
-- source_offset is also null if the bytes did not go out. outcome is null if the journal does not have the row yet.
SELECT
    t.retry_id, t.retried_time, t.retried_by, t.topic, t.partition, s.source_offset, s.confirmed_time, j.seq, j.outcome,
    j.reason
FROM ledger.quarantine_retry AS t
LEFT JOIN ledger.quarantine_retry_sent AS s ON s.retry_id = t.retry_id
LEFT JOIN ledger.lane AS l ON l.lane = t.partition AND l.topic = t.topic
LEFT JOIN ledger.journal AS j ON j.lane = l.lane AND j.seq = s.source_offset - l.first_offset
WHERE t.lane = %(lane)s AND t.seq = %(seq)s
ORDER BY t.retry_id

-- name: begin_retry
-- Records that a quarantined row is about to be sent again, by whom and to where. The bytes carry the retry_id in a
-- header.
INSERT INTO ledger.quarantine_retry (lane, seq, retried_by, topic, partition, from_offset)
VALUES (%(lane)s, %(seq)s, %(retried_by)s, %(topic)s, %(partition)s, %(from_offset)s)
RETURNING retry_id

-- name: confirm_retry
-- Records the offset of a retry's bytes, or that they did not go out; a result that is recorded already stays.
INSERT INTO ledger.quarantine_retry_sent (retry_id, source_offset)
VALUES (%(retry_id)s, %(source_offset)s)
ON CONFLICT (retry_id) DO NOTHING

-- name: unconfirmed_retries
-- Retries without a recorded result: they were cut off before Kafka's answer, or are in flight, for 31 seconds at most.
SELECT t.retry_id, t.topic, t.partition, t.from_offset, t.retried_time < now() - interval '2 minutes' AS is_over
FROM ledger.quarantine_retry AS t
WHERE NOT EXISTS (SELECT FROM ledger.quarantine_retry_sent AS s WHERE s.retry_id = t.retry_id)
ORDER BY t.retry_id
