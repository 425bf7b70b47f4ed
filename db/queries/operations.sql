-- What the operator's commands read and write: status, offsets, dlq. Role ledgerline_operator.

-- name: lanes
-- Where each lane stands: posted, and how far the provers have followed (null where they have not met it).
SELECT
    l.lane, l.topic, l.topic_id, l.first_offset, l.next_offset, l.next_seq, l.head, l.booked_time,
    r.next_seq AS reconciled_seq, a.next_seq AS audited_seq
FROM ledger.lane AS l
LEFT JOIN reconciliation.lane AS r ON r.lane = l.lane
LEFT JOIN audit.lane AS a ON a.lane = l.lane
ORDER BY l.lane

-- name: outcomes
-- Journal rows by outcome: what reconciliation has counted, and beside that only the rows that it has not yet seen.
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
-- Differences that are not resolved, by who found them, kind and state.
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

-- name: quarantined
-- A page of quarantined rows in the order of their booking, past a place in it, with their retries and, of a retry that
-- was quarantined again, its origin. Which: all; untried, never sent again; unsettled, no retry came to a better end.
SELECT
    j.lane, j.seq, j.reason, j.detail, j.source_topic, j.source_offset, j.booked_time,
    coalesce(length(q.value), 0) AS value_bytes, coalesce(sent.retries, 0) AS retries,
    origin.lane AS retry_of_lane, origin.seq AS retry_of_seq
FROM ledger.quarantine AS q
INNER JOIN ledger.journal AS j ON j.lane = q.lane AND j.seq = q.seq
LEFT JOIN (
    SELECT t.lane, t.seq, count(*) AS retries, bool_or(f.outcome <> 'quarantined') AS is_settled
    FROM ledger.quarantine_retry AS t
    LEFT JOIN ledger.journal AS f ON f.lane = t.partition AND f.source_offset = t.source_offset
    GROUP BY t.lane, t.seq
) AS sent ON sent.lane = q.lane AND sent.seq = q.seq
LEFT JOIN ledger.quarantine_retry AS origin
    ON origin.partition = j.lane AND origin.source_offset = j.source_offset AND origin.topic = j.source_topic
WHERE
    (%(reason)s::text IS NULL OR j.reason = %(reason)s::text)
    AND (
        %(which)s::text = 'all'
        OR (origin.retry_id IS NULL AND %(which)s::text = 'untried' AND sent.retries IS NULL)
        OR (origin.retry_id IS NULL AND %(which)s::text = 'unsettled' AND sent.is_settled IS NOT TRUE)
    )
    AND (j.booked_time, j.lane, j.seq) > (%(after_time)s::bigint, %(after_lane)s::integer, %(after_seq)s::bigint)
ORDER BY j.booked_time, j.lane, j.seq
LIMIT %(limit)s::integer

-- name: quarantined_count
-- How many rows the query above would list, without a limit.
SELECT count(*) AS quarantined
FROM ledger.quarantine AS q
INNER JOIN ledger.journal AS j ON j.lane = q.lane AND j.seq = q.seq
LEFT JOIN (
    SELECT t.lane, t.seq, count(*) AS retries, bool_or(f.outcome <> 'quarantined') AS is_settled
    FROM ledger.quarantine_retry AS t
    LEFT JOIN ledger.journal AS f ON f.lane = t.partition AND f.source_offset = t.source_offset
    GROUP BY t.lane, t.seq
) AS sent ON sent.lane = q.lane AND sent.seq = q.seq
LEFT JOIN ledger.quarantine_retry AS origin
    ON origin.partition = j.lane AND origin.source_offset = j.source_offset AND origin.topic = j.source_topic
WHERE
    (%(reason)s::text IS NULL OR j.reason = %(reason)s::text)
    AND (
        %(which)s::text = 'all'
        OR (origin.retry_id IS NULL AND %(which)s::text = 'untried' AND sent.retries IS NULL)
        OR (origin.retry_id IS NULL AND %(which)s::text = 'unsettled' AND sent.is_settled IS NOT TRUE)
    )

-- name: quarantined_bytes
-- The raw bytes of one quarantined row, with what the journal says of it.
SELECT
    j.lane, j.seq, j.reason, j.detail, j.source_topic, j.source_offset, j.booked_time, j.fingerprint, j.hash,
    q.key, q.value, q.headers
FROM ledger.quarantine AS q
INNER JOIN ledger.journal AS j ON j.lane = q.lane AND j.seq = q.seq
WHERE q.lane = %(lane)s AND q.seq = %(seq)s

-- name: retries
-- Each time that a quarantined row was sent again, and what became of that; outcome is null while it is not yet posted.
SELECT t.retried_time, t.retried_by, t.topic, t.partition, t.source_offset, j.seq, j.outcome, j.reason
FROM ledger.quarantine_retry AS t
LEFT JOIN ledger.journal AS j
    ON j.lane = t.partition AND j.source_offset = t.source_offset AND j.source_topic = t.topic
WHERE t.lane = %(lane)s AND t.seq = %(seq)s
ORDER BY t.retry_id

-- name: add_retry
-- Remembers that a quarantined row was sent again, by whom, and where it stands on the topic now.
INSERT INTO ledger.quarantine_retry (lane, seq, retried_by, topic, partition, source_offset)
VALUES (%(lane)s, %(seq)s, %(retried_by)s, %(topic)s, %(partition)s, %(source_offset)s)
