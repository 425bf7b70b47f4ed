-- Reconciliation's own copy of the books' frame, built from the topic ledger.frame, and the ledger's tables.

-- name: reader
-- The next offset of ledger.frame to read.
SELECT next_offset FROM reconciliation.frame_reader

-- name: lock_reader
-- The same, locked: only one worker moves it.
SELECT next_offset FROM reconciliation.frame_reader FOR NO KEY UPDATE

-- name: move_reader
-- Stores the next offset, in the transaction that applies the facts that were read.
UPDATE reconciliation.frame_reader SET next_offset = %(next_offset)s

-- name: own_chains
-- The positions of the chains that the topic has brought.
SELECT chain, next_seq, head FROM reconciliation.fact_chain

-- name: move_chain
-- Stores a chain's position, or inserts a new chain.
INSERT INTO reconciliation.fact_chain (chain, next_seq, head)
VALUES (%(chain)s, %(next_seq)s, %(head)s)
ON CONFLICT (chain) DO UPDATE SET next_seq = excluded.next_seq, head = excluded.head

-- name: put_row
-- Stores a row of the frame as its last fact has it.
INSERT INTO reconciliation.frame (
    part, tenant, name, account_class, normal_direction, floor_minor, currencies, exponent, title, made_time
)
VALUES (
    %(part)s, %(tenant)s, %(name)s, %(account_class)s, %(normal_direction)s, %(floor_minor)s, %(currencies)s,
    %(exponent)s, %(title)s, %(made_time)s
)
ON CONFLICT (part, tenant, name) DO UPDATE SET
    account_class = excluded.account_class, normal_direction = excluded.normal_direction,
    floor_minor = excluded.floor_minor, currencies = excluded.currencies, exponent = excluded.exponent,
    title = excluded.title, made_time = excluded.made_time

-- name: remove_row
-- Deletes a row of the frame that a fact removed.
DELETE FROM reconciliation.frame WHERE part = %(part)s AND tenant = %(tenant)s AND name = %(name)s

-- name: chains
-- Each chain of the topic or the ledger: its next seq on both sides, and on both sides the hash of the last fact that
-- the topic has brought.
SELECT
    coalesce(own.chain, held.chain) AS chain, coalesce(own.next_seq, 0) AS own_next_seq, own.head,
    coalesce(held.next_seq, 0) AS held_next_seq,
    (SELECT f.hash FROM ledger.fact AS f WHERE f.chain = own.chain AND f.seq = own.next_seq - 1) AS held_head
FROM reconciliation.fact_chain AS own
FULL JOIN ledger.fact_chain AS held ON held.chain = own.chain
ORDER BY chain

-- name: unequal_held
-- From a page of the ledger's rows of one part: those that differ from the facts or have no fact, and the page's last
-- row.
SELECT
    page.tenant, page.name, page.is_last, own.part IS NOT NULL AS is_told,
    own.account_class, own.normal_direction, own.floor_minor, own.currencies, own.exponent, own.title, own.made_time,
    true AS is_held,
    page.account_class, page.normal_direction, page.floor_minor, page.currencies, page.exponent, page.title,
    page.made_time
FROM (
    SELECT held.*, row_number() OVER (ORDER BY held.tenant, held.name) = %(limit)s AS is_last
    FROM (
        SELECT f.*
        FROM ledger.frame AS f
        WHERE f.part = %(part)s AND (f.tenant, f.name) > (%(tenant)s, %(name)s)
        ORDER BY f.tenant, f.name
        LIMIT %(limit)s
    ) AS held
) AS page
LEFT JOIN reconciliation.frame AS own
    ON own.part = %(part)s AND own.tenant = page.tenant AND own.name = page.name
WHERE
    page.is_last OR own.part IS NULL
    OR (
        page.account_class, page.normal_direction, page.floor_minor, page.currencies, page.exponent, page.title,
        page.made_time
    ) IS DISTINCT FROM (
        own.account_class, own.normal_direction, own.floor_minor, own.currencies, own.exponent, own.title,
        own.made_time
    )
ORDER BY page.tenant, page.name

-- name: untold_own
-- From a page of reconciliation's own rows of one part: those that the ledger lacks, and the page's last row.
SELECT
    page.tenant, page.name, page.is_last, true AS is_told,
    page.account_class, page.normal_direction, page.floor_minor, page.currencies, page.exponent, page.title,
    page.made_time, held.part IS NOT NULL AS is_held,
    held.account_class, held.normal_direction, held.floor_minor, held.currencies, held.exponent, held.title,
    held.made_time
FROM (
    SELECT own.*, row_number() OVER (ORDER BY own.tenant, own.name) = %(limit)s AS is_last
    FROM (
        SELECT f.*
        FROM reconciliation.frame AS f
        WHERE f.part = %(part)s AND (f.tenant, f.name) > (%(tenant)s, %(name)s)
        ORDER BY f.tenant, f.name
        LIMIT %(limit)s
    ) AS own
) AS page
LEFT JOIN LATERAL (
    SELECT f.* FROM ledger.frame AS f
    WHERE f.part = page.part AND f.tenant = page.tenant AND f.name = page.name
    OFFSET 0
) AS held ON true
WHERE page.is_last OR held.part IS NULL
ORDER BY page.tenant, page.name

-- name: one_row
-- Both sides of one row of the frame.
SELECT
    asked.tenant, asked.name, false AS is_last, own.part IS NOT NULL AS is_told,
    own.account_class, own.normal_direction, own.floor_minor, own.currencies, own.exponent, own.title, own.made_time,
    held.part IS NOT NULL AS is_held,
    held.account_class, held.normal_direction, held.floor_minor, held.currencies, held.exponent, held.title,
    held.made_time
FROM (SELECT %(part)s::text AS part, %(tenant)s::text AS tenant, %(name)s::text AS name) AS asked
LEFT JOIN reconciliation.frame AS own
    ON own.part = asked.part AND own.tenant = asked.tenant AND own.name = asked.name
LEFT JOIN ledger.frame AS held
    ON held.part = asked.part AND held.tenant = asked.tenant AND held.name = asked.name

-- name: awaited
-- Those of these rows about which the ledger has a fact that the topic has not brought yet.
SELECT DISTINCT f.part, f.tenant, f.name
FROM ledger.fact_chain AS held
LEFT JOIN reconciliation.fact_chain AS own ON own.chain = held.chain
CROSS JOIN LATERAL (
    SELECT g.part, g.tenant, g.name
    FROM ledger.fact AS g
    WHERE g.chain = held.chain AND g.seq >= coalesce(own.next_seq, 0)
    OFFSET 0
) AS f
INNER JOIN unnest(%(parts)s::text [], %(tenants)s::text [], %(names)s::text []) AS asked (part, tenant, name)
    ON asked.part = f.part AND asked.tenant = f.tenant AND asked.name = f.name

-- name: all_held
-- Every row of the ledger's frame, for a full recomputation.
SELECT
    part, tenant, name, account_class, normal_direction, floor_minor, currencies, exponent, title, made_time
FROM ledger.frame
