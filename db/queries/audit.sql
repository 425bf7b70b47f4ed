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
