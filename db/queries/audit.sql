-- Audit: its own copy of the hashes, its checkpoints, and read-only queries of the ledger.

-- name: make_lanes
-- Inserts lanes that audit has not read from before.
INSERT INTO audit.lane (lane)
SELECT wanted.lane
FROM unnest(%(lanes)s::integer []) AS wanted (lane)
ORDER BY wanted.lane
ON CONFLICT (lane) DO NOTHING

-- name: lock_lanes
-- The fence: only one worker can hold a lane. Lanes are locked in order.
SELECT lane, next_offset, next_seq, head, first_seq, peaks, signatures_first_seq, signatures_next_seq
FROM audit.lane
WHERE lane = ANY(%(lanes)s::integer [])
ORDER BY lane
FOR NO KEY UPDATE

-- name: lock_all_lanes
-- The signer locks every lane, so that a checkpoint is one state of all lanes.
SELECT lane, next_offset, next_seq, head, first_seq, peaks, signatures_first_seq, signatures_next_seq
FROM audit.lane
ORDER BY lane
FOR NO KEY UPDATE

-- name: lanes
-- The position of every lane, without a lock.
SELECT lane, next_offset, next_seq, head, first_seq, peaks, signatures_first_seq, signatures_next_seq
FROM audit.lane
ORDER BY lane

-- name: move_lane
-- Stores a lane's position after a batch, or starts its tree again after a checkpoint.
UPDATE audit.lane
SET
    next_offset = %(next_offset)s, next_seq = %(next_seq)s, head = %(head)s, first_seq = %(first_seq)s, peaks = %(peaks)s,
    signatures_first_seq = %(signatures_first_seq)s, signatures_next_seq = %(signatures_next_seq)s
WHERE lane = %(lane)s

-- name: add_segment
-- Stores the hashes of a batch, as they arrived.
INSERT INTO audit.segment (lane, first_seq, next_seq, head, hashes)
VALUES (%(lane)s, %(first_seq)s, %(next_seq)s, %(head)s, %(hashes)s)

-- name: segments
-- The hashes of a range of a lane, in order; the first and the last segment may reach beyond it.
SELECT lane, first_seq, next_seq, head, hashes
FROM audit.segment
WHERE
    lane = %(lane)s AND first_seq < %(next_seq)s
    AND first_seq >= coalesce(
        (
            SELECT max(s.first_seq) FROM audit.segment AS s
            WHERE s.lane = %(lane)s AND s.first_seq <= %(first_seq)s
        ),
        0
    )
    AND next_seq > %(first_seq)s
ORDER BY first_seq

-- name: lock_signer
-- Only one worker signs at a time; another worker gets no row while it is locked.
SELECT next_checkpoint
FROM audit.publication
FOR UPDATE SKIP LOCKED

-- name: next_unpublished_checkpoint
-- The first checkpoint that the topic does not have.
SELECT next_checkpoint
FROM audit.publication

-- name: last_checkpoint
-- The newest checkpoint.
SELECT checkpoint, previous_hash, root, signed_time, key_id, signature
FROM audit.checkpoint
ORDER BY checkpoint DESC
LIMIT 1

-- name: checkpoints
-- A page of checkpoints in order.
SELECT checkpoint, previous_hash, root, signed_time, key_id, signature
FROM audit.checkpoint
WHERE checkpoint >= %(first_checkpoint)s
ORDER BY checkpoint
LIMIT %(limit)s::integer

-- name: checkpoint_lanes
-- The heads that these checkpoints sign.
SELECT checkpoint, lane, first_seq, next_seq, head, records_root
FROM audit.checkpoint_lane
WHERE checkpoint = ANY(%(checkpoints)s::bigint [])
ORDER BY checkpoint, lane

-- name: covering_checkpoint
-- The checkpoint that covers a record.
SELECT c.checkpoint, c.previous_hash, c.root, c.signed_time, c.key_id, c.signature
FROM audit.checkpoint_lane AS l
INNER JOIN audit.checkpoint AS c ON c.checkpoint = l.checkpoint
WHERE l.lane = %(lane)s AND l.next_seq > %(seq)s AND l.first_seq <= %(seq)s
ORDER BY l.next_seq
LIMIT 1

-- name: add_checkpoint
-- Stores a signed checkpoint.
INSERT INTO audit.checkpoint (checkpoint, previous_hash, root, signed_time, key_id, signature)
VALUES (%(checkpoint)s, %(previous_hash)s, %(root)s, %(signed_time)s, %(key_id)s, %(signature)s)

-- name: add_checkpoint_lane
-- Stores one head of a signed checkpoint.
INSERT INTO audit.checkpoint_lane (checkpoint, lane, first_seq, next_seq, head, records_root)
VALUES (%(checkpoint)s, %(lane)s, %(first_seq)s, %(next_seq)s, %(head)s, %(records_root)s)

-- name: add_signing_key
-- Stores a public key that signs from now on.
INSERT INTO audit.signing_key (key_id, public_key)
VALUES (%(key_id)s, %(public_key)s)
ON CONFLICT (key_id) DO NOTHING

-- name: signing_keys
-- Every public key that has signed.
SELECT key_id, public_key
FROM audit.signing_key

-- name: checkpoints_published
-- Records that the topic has all checkpoints before this one.
UPDATE audit.publication
SET next_checkpoint = %(next_checkpoint)s

-- name: stored_rows
-- A window of a lane's journal, with everything that the hashes cover except the legs. previous_hash is the hash of the
-- row before, or 32 zero bytes if there is no such row.
SELECT
    seq, source_topic, source_offset, outcome, reason, detail, tenant, intent_id::text AS intent_id, idempotency_key,
    fingerprint, type, reverses::text AS reverses, leg_count, reference, metadata, value_time, booked_time,
    previous_hash, hash
FROM (
    SELECT
        j.*,
        (SELECT l.topic FROM ledger.lane AS l WHERE l.lane = %(lane)s) AS source_topic,
        (SELECT l.first_offset FROM ledger.lane AS l WHERE l.lane = %(lane)s) + j.seq AS source_offset,
        CASE lag(j.seq) OVER (ORDER BY j.seq)
            WHEN j.seq - 1 THEN lag(j.hash) OVER (ORDER BY j.seq) ELSE decode(repeat('00', 32), 'hex')
        END AS previous_hash
    FROM ledger.journal AS j
    WHERE j.lane = %(lane)s AND j.seq >= %(first_seq)s::bigint - 1 AND j.seq < %(next_seq)s
) AS stored
WHERE seq >= %(first_seq)s
ORDER BY seq

-- name: stored_legs
-- The entries of the same window by address; the address is null if the account is missing.
SELECT
    e.seq, a.address, CASE e.direction WHEN 1 THEN 'debit' ELSE 'credit' END AS direction,
    e.amount_minor::text AS amount_minor, e.currency
FROM ledger.entry AS e
LEFT JOIN ledger.account AS a ON a.account_id = e.account_id
WHERE
    e.lane = %(lane)s
    AND ledger.leg_place(e.seq, e.leg) >= ledger.leg_place(%(first_seq)s, 0)
    AND ledger.leg_place(e.seq, e.leg) < ledger.leg_place(%(next_seq)s, 0)
ORDER BY ledger.leg_place(e.seq, e.leg)

-- name: stray_rows
-- Journal rows and entries outside every lane: below seq 0, past the lane's end, or in a lane that does not exist. Each
-- part is sorted as an index is, so that Postgres reads only such rows, normally none, and not the whole table.
SELECT found.lane, found.seq, bool_or(found.is_row) AS has_row
FROM (
    SELECT beside.lane, beside.seq, beside.is_row
    FROM ledger.lane AS l
    CROSS JOIN LATERAL (
        (
            SELECT lane, seq, true AS is_row
            FROM ledger.journal
            WHERE lane = l.lane AND seq < 0
            ORDER BY lane, seq
            LIMIT %(limit)s::integer
        )
        UNION ALL
        (
            SELECT lane, seq, true AS is_row
            FROM ledger.journal
            WHERE lane = l.lane AND seq >= l.next_seq
            ORDER BY lane, seq
            LIMIT %(limit)s::integer
        )
        UNION ALL
        (
            SELECT lane, seq, false AS is_row
            FROM ledger.entry
            WHERE lane = l.lane AND ledger.leg_place(seq, leg) < 0
            ORDER BY lane, ledger.leg_place(seq, leg)
            LIMIT %(limit)s::integer
        )
        UNION ALL
        (
            SELECT lane, seq, false AS is_row
            FROM ledger.entry
            WHERE lane = l.lane AND ledger.leg_place(seq, leg) >= ledger.leg_place(l.next_seq, 0)
            ORDER BY lane, ledger.leg_place(seq, leg)
            LIMIT %(limit)s::integer
        )
    ) AS beside
    UNION ALL
    (SELECT lane, seq, true AS is_row FROM ledger.journal WHERE lane < 0 ORDER BY lane LIMIT %(limit)s::integer)
    UNION ALL
    (
        SELECT lane, seq, true AS is_row
        FROM ledger.journal
        WHERE lane > (SELECT coalesce(max(l.lane), -1) FROM ledger.lane AS l)
        ORDER BY lane
        LIMIT %(limit)s::integer
    )
    UNION ALL
    (SELECT lane, seq, false AS is_row FROM ledger.entry WHERE lane < 0 ORDER BY lane LIMIT %(limit)s::integer)
    UNION ALL
    (
        SELECT lane, seq, false AS is_row
        FROM ledger.entry
        WHERE lane > (SELECT coalesce(max(l.lane), -1) FROM ledger.lane AS l)
        ORDER BY lane
        LIMIT %(limit)s::integer
    )
) AS found
GROUP BY found.lane, found.seq
ORDER BY found.lane, found.seq

-- name: ledger_lanes
-- The lanes' positions in the ledger's tables, and the head of each lane's hash chain.
SELECT lane, next_seq, head
FROM ledger.lane
ORDER BY lane

-- name: signed_head_over
-- The first signed head after a row, which covers the row if its first_seq is not greater than the row's seq.
SELECT lane, first_seq, next_seq, signature
FROM ledger.signed_head
WHERE lane = %(lane)s AND next_seq > %(seq)s
ORDER BY next_seq
LIMIT 1

-- name: stored_hashes
-- The ledger's hashes of a range of a lane's rows.
SELECT hash
FROM ledger.journal
WHERE lane = %(lane)s AND seq >= %(first_seq)s AND seq < %(next_seq)s
ORDER BY seq

-- name: intent_place
-- At most two rows that settled an intent; of any tenant if tenant is null.
SELECT lane, seq, tenant
FROM ledger.journal
WHERE
    intent_id = %(intent_id)s::uuid AND outcome IN ('posted', 'rejected')
    AND tenant = coalesce(%(tenant)s::text, tenant)
LIMIT 2

-- name: record_break
-- Opens a break, or updates a known one to the new finding; nothing is written if state and detail are unchanged.
INSERT INTO audit.break AS known (
    break_id, kind, subject, state, lane, seq, detail, evidence, opened_time, changed_time
)
VALUES (
    %(break_id)s, %(kind)s, %(subject)s, %(state)s, %(lane)s, %(seq)s, %(detail)s, %(evidence)s, %(now)s, %(now)s
)
ON CONFLICT (break_id) DO UPDATE SET
    state = excluded.state, detail = excluded.detail, evidence = excluded.evidence, changed_time = excluded.changed_time,
    opened_time = CASE known.state WHEN 'resolved' THEN excluded.opened_time ELSE known.opened_time END
WHERE (known.state, known.detail) IS DISTINCT FROM (excluded.state, excluded.detail)

-- name: resolve_breaks
-- Resolves breaks that later evidence explained.
UPDATE audit.break
SET state = 'resolved', detail = %(detail)s, changed_time = %(now)s
WHERE break_id = ANY(%(break_ids)s::uuid []) AND state <> 'resolved'

-- name: unresolved_breaks
-- A page of the breaks that are open or explained, in order of id; of all kinds if kinds is null.
SELECT break_id, kind, subject, state, lane, seq, detail, evidence, opened_time, changed_time
FROM audit.break
WHERE
    state <> 'resolved' AND break_id > %(after)s::uuid
    AND (%(kinds)s::text [] IS NULL OR kind = ANY(%(kinds)s::text []))
ORDER BY break_id
LIMIT %(limit)s::integer

-- name: unresolved_of
-- Those of these breaks that are open or explained.
SELECT break_id, kind, subject, state, lane, seq, detail, evidence, opened_time, changed_time
FROM audit.break
WHERE state <> 'resolved' AND break_id = ANY(%(break_ids)s::uuid [])

-- name: unpublished_breaks
-- Breaks whose current state is not on the topic ledger.breaks yet, oldest change first.
SELECT break_id, kind, subject, state, lane, seq, detail, evidence, opened_time, changed_time
FROM audit.break
WHERE published_state IS DISTINCT FROM state
ORDER BY changed_time
LIMIT %(limit)s::integer

-- name: published_breaks
-- Stores the states that the topic has now; a break that changed meanwhile stays unpublished, as its state differs.
UPDATE audit.break AS known
SET published_state = told.state
FROM unnest(%(break_ids)s::uuid [], %(states)s::text []) AS told (break_id, state)
WHERE known.break_id = told.break_id

-- name: break_counts
-- The number of unresolved breaks by kind and state, for metrics and status.
SELECT kind, state, count(*) AS breaks
FROM audit.break
WHERE state <> 'resolved'
GROUP BY kind, state

-- name: open_breaks
-- The open breaks by kind: when the oldest was opened, and how many are open for longer than their kind's term.
SELECT b.kind, min(b.opened_time) AS oldest_time, count(*) FILTER (WHERE b.opened_time < term.overdue_before) AS overdue
FROM audit.break AS b
INNER JOIN
    unnest(%(kinds)s::text [], %(overdue_before)s::bigint []) AS term (kind, overdue_before)
    ON b.kind = term.kind
WHERE b.state = 'open'
GROUP BY b.kind
