-- Replay: loads an empty ledger from ledger.journal, as the owner of the tables.
-- docs/decisions/0007-what-a-replay-needs.md.

-- name: lock
-- Allows one replay at a time; the session holds the lock.
SELECT pg_try_advisory_lock(hashtext('ledgerline.replay')) AS locked

-- name: is_owner
-- Whether this login may drop and create indexes of the ledger.
SELECT pg_has_role(current_user, c.relowner, 'MEMBER') AS is_owner
FROM pg_class AS c
WHERE c.oid = 'ledger.journal'::regclass

-- name: is_empty
-- Whether nothing was ever posted here.
SELECT NOT EXISTS (SELECT FROM ledger.journal) AND NOT EXISTS (SELECT FROM ledger.lane WHERE next_seq > 0) AS is_empty

-- name: is_loading
-- Whether a load was begun and not ended.
SELECT EXISTS (SELECT FROM replay.dropped) AS is_loading

-- name: droppable
-- Keys, indexes and triggers on INSERT, which slow a load down, with the statements that drop and restore each.
SELECT found.relation, found.dropping_statement, found.restoring_statement
FROM (
    SELECT
        1 AS rank,
        k.conrelid::regclass::text AS relation,
        format('ALTER TABLE %%s DROP CONSTRAINT %%I', k.conrelid::regclass, k.conname) AS dropping_statement,
        format(
            'ALTER TABLE %%s ADD CONSTRAINT %%I %%s%%s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid),
            ' WITH (' || array_to_string(c.reloptions, ', ') || ')'
        ) AS restoring_statement
    FROM pg_constraint AS k
    INNER JOIN pg_class AS c ON c.oid = k.conindid
    WHERE k.conrelid IN ('ledger.journal'::regclass, 'ledger.entry'::regclass) AND k.contype IN ('p', 'u')
    UNION ALL
    SELECT
        2 AS rank,
        i.indrelid::regclass::text AS relation,
        format('DROP INDEX %%s', i.indexrelid::regclass) AS dropping_statement,
        pg_get_indexdef(i.indexrelid) AS restoring_statement
    FROM pg_index AS i
    LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid
    WHERE i.indrelid IN ('ledger.journal'::regclass, 'ledger.entry'::regclass) AND k.oid IS NULL
    UNION ALL
    SELECT
        3 AS rank,
        'triggers' AS relation,
        format('ALTER TABLE %%s DISABLE TRIGGER %%I', t.tgrelid::regclass, t.tgname) AS dropping_statement,
        format('ALTER TABLE %%s ENABLE TRIGGER %%I', t.tgrelid::regclass, t.tgname) AS restoring_statement
    FROM pg_trigger AS t
    WHERE
        t.tgrelid IN ('ledger.journal'::regclass, 'ledger.entry'::regclass)
        AND NOT t.tgisinternal AND t.tgenabled = 'O' AND (t.tgtype & 4) <> 0
) AS found
ORDER BY found.rank, found.restoring_statement

-- name: add_dropped
-- Records what is dropped, in the transaction that drops it.
INSERT INTO replay.dropped (step, relation, restoring_statement)
VALUES (%(step)s, %(relation)s, %(restoring_statement)s)

-- name: dropped
-- What must still be restored, in order.
SELECT step, relation, restoring_statement
FROM replay.dropped
ORDER BY step

-- name: restored
-- Deletes the record of a dropped thing, in the transaction that restores it.
DELETE FROM replay.dropped WHERE step = %(step)s

-- name: make_lane
-- Inserts a lane that will be loaded from its beginning.
INSERT INTO replay.lane (lane, journal_offset, source_topic, first_offset, next_seq, head, booked_time)
VALUES (%(lane)s, 0, '', 0, 0, decode(repeat('00', 32), 'hex'), 0)
ON CONFLICT (lane) DO NOTHING

-- name: lanes
-- The progress of each lane.
SELECT lane, journal_offset, source_topic, first_offset, next_seq, head, booked_time
FROM replay.lane
ORDER BY lane

-- name: lock_lanes
-- The fence: while this transaction holds the lanes, a process left over from an earlier replay cannot move them.
SELECT lane, next_seq
FROM replay.lane
WHERE lane = ANY(%(lanes)s::integer [])
ORDER BY lane
FOR NO KEY UPDATE

-- name: add_signed_head
-- Stores posting's signed head from the topic; it may exist already if this replay continues another.
INSERT INTO ledger.signed_head (lane, next_seq, first_seq, signature)
VALUES (%(lane)s, %(next_seq)s, %(first_seq)s, %(signature)s)
ON CONFLICT (lane, next_seq) DO NOTHING

-- name: move_lane
-- Stores a lane's progress in the transaction that loads its rows.
UPDATE replay.lane
SET
    journal_offset = %(journal_offset)s, source_topic = %(source_topic)s, first_offset = %(first_offset)s,
    next_seq = %(next_seq)s, head = %(head)s, booked_time = %(booked_time)s
WHERE lane = %(lane)s

-- name: sum_up
-- Sums up the balances of the loaded entries, one shard for each account, currency and lane.
INSERT INTO ledger.balance (account_id, currency, lane, debits_minor, credits_minor, seq)
SELECT
    e.account_id, e.currency, e.lane,
    coalesce(sum(e.amount_minor) FILTER (WHERE e.direction = 1), 0) AS debits_minor,
    coalesce(sum(e.amount_minor) FILTER (WHERE e.direction = -1), 0) AS credits_minor,
    max(e.seq) AS seq
FROM ledger.entry AS e
GROUP BY e.account_id, e.currency, e.lane

-- name: begin_lanes
-- Puts the ledger's own lanes at the beginning of the loaded rows.
INSERT INTO ledger.lane AS known (lane, topic, topic_id, first_offset, next_offset)
SELECT r.lane, r.source_topic, %(topic_id)s, r.first_offset, r.first_offset
FROM replay.lane AS r
WHERE r.next_seq > 0
ON CONFLICT (lane) DO UPDATE SET
    topic = excluded.topic, topic_id = excluded.topic_id, first_offset = excluded.first_offset,
    next_offset = excluded.next_offset
WHERE known.next_seq = 0

-- name: walk_lanes
-- Moves each unfinished lane over up to `rows` loaded rows, which the trigger lane_advances counts; returns the new
-- next_seq of each lane that moved.
UPDATE ledger.lane AS l
SET
    next_offset = l.first_offset + step.next_seq, next_seq = step.next_seq, head = j.hash, booked_time = j.booked_time
FROM replay.lane AS r
CROSS JOIN LATERAL (
    SELECT least(r.next_seq, own.next_seq + %(rows)s::bigint) AS next_seq
    FROM ledger.lane AS own
    WHERE own.lane = r.lane
) AS step
INNER JOIN ledger.journal AS j ON j.lane = r.lane AND j.seq = step.next_seq - 1
WHERE l.lane = r.lane AND l.next_seq < r.next_seq
RETURNING step.next_seq

-- name: end_load
-- Deletes the progress of the load, once the ledger's lanes have moved.
DELETE FROM replay.lane

-- name: add_quarantine
-- Stores the raw bytes behind a quarantined row; stored bytes stay, and nothing happens if it is no quarantined row.
INSERT INTO ledger.quarantine (lane, seq, key, value, headers)
SELECT j.lane, j.seq, %(key)s, %(value)s, %(headers)s
FROM ledger.journal AS j
WHERE j.lane = %(lane)s AND j.seq = %(seq)s AND j.outcome = 'quarantined'
ON CONFLICT (lane, seq) DO NOTHING

-- name: quarantine_without_bytes
-- Stores empty bytes for the quarantined rows whose bytes no topic has any more; returns the number of these rows.
WITH added AS (
    INSERT INTO ledger.quarantine (lane, seq, key, value, headers)
    SELECT j.lane, j.seq, NULL, NULL, '[]'
    FROM ledger.journal AS j
    LEFT JOIN ledger.quarantine AS q ON q.lane = j.lane AND q.seq = j.seq
    WHERE j.outcome = 'quarantined' AND q.lane IS NULL
    RETURNING lane
)
SELECT count(*) AS rows_without FROM added

-- name: copy_hashes
-- Copies the hashes from audit's position up to the end of a checkpoint into audit's table, in segments of `rows` rows.
INSERT INTO audit.segment (lane, first_seq, next_seq, head, hashes)
SELECT
    %(lane)s, min(j.seq), max(j.seq) + 1,
    coalesce(
        (SELECT p.hash FROM ledger.journal AS p WHERE p.lane = %(lane)s AND p.seq = min(j.seq) - 1),
        decode(repeat('00', 32), 'hex')
    ),
    string_agg(j.hash, '' ORDER BY j.seq)
FROM ledger.journal AS j
WHERE j.lane = %(lane)s AND j.seq >= %(first_seq)s AND j.seq < %(next_seq)s
GROUP BY (j.seq - %(first_seq)s) / %(rows)s::bigint

-- name: analyze
-- Gives the planner statistics of the loaded rows before anything looks rows up.
ANALYZE ledger.journal, ledger.entry, ledger.account
