-- The console's queries: sums, the breaks of reconciliation and audit, checkpoints and signing keys.

-- name: symmetry
-- Reconciliation's debits and credits by currency: of all tenants together (tenant is null), and of single tenants.
SELECT
    CASE WHEN grouping(tenant) = 0 THEN tenant END AS tenant, currency,
    sum(debits_minor) AS debits_minor, sum(credits_minor) AS credits_minor
FROM reconciliation.total
GROUP BY GROUPING SETS ((currency), (tenant, currency))
HAVING grouping(tenant) = 1 OR tenant = ANY(%(tenants)s::text [])
ORDER BY tenant NULLS FIRST, currency COLLATE "C"

-- name: breaks
-- A page of breaks, the one that was opened last first: all, or those that certainly concern one tenant.
SELECT
    found.found_by, found.break_id, found.kind, found.subject, found.state, found.lane, found.seq, found.detail,
    found.evidence, found.opened_time, found.changed_time
FROM (
    SELECT
        'reconciliation' AS found_by, b.break_id, b.kind, b.subject, b.state, b.lane, b.seq, b.detail, b.evidence,
        b.opened_time, b.changed_time
    FROM reconciliation.break AS b
    UNION ALL
    SELECT
        'audit' AS found_by, b.break_id, b.kind, b.subject, b.state, b.lane, b.seq, b.detail, b.evidence,
        b.opened_time, b.changed_time
    FROM audit.break AS b
) AS found
WHERE
    (found.opened_time, found.break_id) < (%(time)s::bigint, %(break_id)s::uuid)
    AND (%(state)s::text IS NULL OR found.state = %(state)s::text)
    AND (%(kind)s::text IS NULL OR found.kind = %(kind)s::text)
    AND (
        %(tenant)s::text IS NULL
        OR found.evidence ->> 'tenant' = %(tenant)s::text
        -- A break of a tenant's sums: only such subjects begin with the tenant's name.
        OR (found.kind = 'symmetry' AND found.lane IS NULL AND split_part(found.subject, ' ', 1) = %(tenant)s::text)
        OR EXISTS (
            SELECT FROM ledger.journal AS j
            WHERE j.lane = found.lane AND j.seq = found.seq AND j.tenant = %(tenant)s::text
        )
    )
ORDER BY found.opened_time DESC, found.break_id DESC
LIMIT %(limit)s::integer

-- name: checkpoints
-- A page of checkpoints, the newest first.
SELECT checkpoint, previous_hash, root, signed_time, key_id, signature
FROM audit.checkpoint
WHERE checkpoint < %(before)s::bigint
ORDER BY checkpoint DESC
LIMIT %(limit)s::integer

-- name: checkpoint_lanes
-- The heads that these checkpoints sign.
SELECT checkpoint, lane, first_seq, next_seq, head, records_root
FROM audit.checkpoint_lane
WHERE checkpoint = ANY(%(checkpoints)s::bigint [])
ORDER BY checkpoint, lane

-- name: signing_keys
-- Every public key that has signed, in order of first use.
SELECT key_id, public_key, first_used_time
FROM audit.signing_key
ORDER BY first_used_time, key_id
