-- The breaks that a prover found, in its own schema.

-- name: record_breaks
-- Opens breaks, or updates known ones to the new findings; nothing is written if state and detail are unchanged.
INSERT INTO {schema}.break AS known (
    break_id, kind, subject, state, lane, seq, detail, evidence, opened_time, changed_time
)
SELECT
    f.break_id, f.kind, f.subject, f.state, f.lane, f.seq, f.detail, f.evidence, %(now)s::bigint, %(now)s::bigint
FROM unnest(
    %(break_ids)s::uuid [], %(kinds)s::text [], %(subjects)s::text [], %(states)s::text [], %(lanes)s::integer [],
    %(seqs)s::bigint [], %(details)s::text [], %(evidence)s::jsonb []
) WITH ORDINALITY AS f (break_id, kind, subject, state, lane, seq, detail, evidence, place)
LEFT JOIN {schema}.break AS b ON b.break_id = f.break_id
WHERE b.break_id IS NULL OR (b.state, b.detail) IS DISTINCT FROM (f.state, f.detail)
ORDER BY f.place
ON CONFLICT (break_id) DO UPDATE SET
    state = excluded.state, detail = excluded.detail, evidence = excluded.evidence, changed_time = excluded.changed_time,
    opened_time = CASE known.state WHEN 'resolved' THEN excluded.opened_time ELSE known.opened_time END
WHERE (known.state, known.detail) IS DISTINCT FROM (excluded.state, excluded.detail)

-- name: resolve_breaks
-- Resolves breaks that later evidence explained.
UPDATE {schema}.break
SET state = 'resolved', detail = %(detail)s, changed_time = %(now)s
WHERE break_id = ANY(%(break_ids)s::uuid []) AND state <> 'resolved'

-- name: unresolved_breaks
-- A page of the breaks of these kinds that are open or explained, in order of id.
SELECT break_id, kind, subject, state, lane, seq, detail, evidence, opened_time, changed_time
FROM {schema}.break
WHERE state <> 'resolved' AND break_id > %(after)s::uuid AND kind = ANY(%(kinds)s::text [])
ORDER BY break_id
LIMIT %(limit)s::integer

-- name: is_unresolved
-- A row if this break is open or explained.
SELECT break_id
FROM {schema}.break
WHERE state <> 'resolved' AND break_id = %(break_id)s

-- name: unpublished_breaks
-- Breaks whose current state is not on the topic ledger.breaks yet, oldest change first.
SELECT break_id, kind, subject, state, lane, seq, detail, evidence, opened_time, changed_time
FROM {schema}.break
WHERE published_state IS DISTINCT FROM state
ORDER BY changed_time
LIMIT %(limit)s::integer

-- name: published_breaks
-- Stores the states that the topic has now; a break that changed meanwhile stays unpublished, as its state differs.
UPDATE {schema}.break AS known
SET published_state = told.state
FROM unnest(%(break_ids)s::uuid [], %(states)s::text []) AS told (break_id, state)
WHERE known.break_id = told.break_id

-- name: break_counts
-- The number of unresolved breaks by kind and state, for metrics and status.
SELECT kind, state, count(*) AS breaks
FROM {schema}.break
WHERE state <> 'resolved'
GROUP BY kind, state

-- name: open_breaks
-- The open breaks by kind: when the oldest was opened, and how many are open for longer than their kind's term.
SELECT b.kind, min(b.opened_time) AS oldest_time, count(*) FILTER (WHERE b.opened_time < term.overdue_before) AS overdue
FROM {schema}.break AS b
INNER JOIN
    unnest(%(kinds)s::text [], %(overdue_before)s::bigint []) AS term (kind, overdue_before)
    ON b.kind = term.kind
WHERE b.state = 'open'
GROUP BY b.kind
