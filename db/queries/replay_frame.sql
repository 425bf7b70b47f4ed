-- Restores the books' frame from the topic ledger.frame, as the owner of the tables.

-- name: chains
-- The positions of this database's chains.
SELECT chain, next_seq, head FROM ledger.fact_chain ORDER BY chain

-- name: fact_hash
-- The hash of one fact.
SELECT hash FROM ledger.fact WHERE chain = %(chain)s AND seq = %(seq)s

-- name: triggers
-- The statements that switch the triggers of the frame's tables off, and on again. With triggers on, each restored row
-- would write a second fact.
SELECT
    format('ALTER TABLE %%s DISABLE TRIGGER USER', c.oid::regclass) AS off_statement,
    format('ALTER TABLE %%s ENABLE TRIGGER USER', c.oid::regclass) AS on_statement
FROM pg_class AS c
WHERE
    c.oid IN (
        'ledger.tenant'::regclass, 'ledger.unit'::regclass, 'ledger.chart_pattern'::regclass,
        'ledger.account'::regclass, 'ledger.fact'::regclass
    )
ORDER BY c.oid

-- name: drop_facts
-- Deletes the facts of a database in which nothing was posted: the topic's facts replace them.
DELETE FROM ledger.fact

-- name: drop_chains
-- Deletes the chains of these facts.
DELETE FROM ledger.fact_chain

-- name: copy_facts
-- Writes facts as the topic has them.
COPY ledger.fact (
    chain, seq, part, change, tenant, name, account_class, normal_direction, floor_minor, currencies, exponent, title,
    made_time, author, booked_time, hash
) FROM STDIN

-- name: move_chain
-- Stores a chain's position after these facts.
INSERT INTO ledger.fact_chain (chain, next_seq, head, booked_time)
VALUES (%(chain)s, %(next_seq)s, %(head)s, %(booked_time)s)
ON CONFLICT (chain) DO UPDATE SET
    next_seq = excluded.next_seq, head = excluded.head, booked_time = excluded.booked_time

-- name: put_tenants
-- Writes tenants as their facts have them.
INSERT INTO ledger.tenant (tenant, created_time)
SELECT told.tenant, timestamptz 'epoch' + told.made_time * interval '1 microsecond'
FROM jsonb_to_recordset(%(rows)s::jsonb) AS told (tenant text, made_time bigint)
ON CONFLICT (tenant) DO UPDATE SET created_time = excluded.created_time

-- name: put_units
-- Writes units as their facts have them.
INSERT INTO ledger.unit (tenant, code, exponent, name)
SELECT told.tenant, told.name, told.exponent, told.title
FROM jsonb_to_recordset(%(rows)s::jsonb) AS told (tenant text, name text, exponent smallint, title text)
ON CONFLICT (tenant, code) DO UPDATE SET exponent = excluded.exponent, name = excluded.name

-- name: put_charts
-- Writes chart lines as their last facts have them.
INSERT INTO ledger.chart_pattern (tenant, pattern, account_class, normal_direction, floor_minor, currencies)
SELECT
    told.tenant, told.name, told.account_class, told.normal_direction, told.floor_minor,
    string_to_array(told.currencies, ',')
FROM jsonb_to_recordset(%(rows)s::jsonb) AS told (
    tenant text, name text, account_class text, normal_direction smallint, floor_minor bigint, currencies text
)
ON CONFLICT (tenant, pattern) DO UPDATE SET
    account_class = excluded.account_class, normal_direction = excluded.normal_direction,
    floor_minor = excluded.floor_minor, currencies = excluded.currencies

-- name: drop_charts
-- Deletes the chart lines that their last facts removed.
DELETE FROM ledger.chart_pattern AS c
USING jsonb_to_recordset(%(rows)s::jsonb) AS told (tenant text, name text)
WHERE c.tenant = told.tenant AND c.pattern = told.name

-- name: put_accounts
-- Writes accounts as their facts have them, in the topic's order; accounts that are open already keep their ids.
INSERT INTO ledger.account (tenant, address, account_class, normal_direction, floor_minor, opened_time)
SELECT
    told.tenant, told.name, told.account_class, told.normal_direction, told.floor_minor,
    timestamptz 'epoch' + told.made_time * interval '1 microsecond'
FROM
    ROWS FROM (
        jsonb_to_recordset(%(rows)s::jsonb) AS (
            tenant text, name text, account_class text, normal_direction smallint, floor_minor bigint, made_time bigint
        )
    ) WITH ORDINALITY AS told (tenant, name, account_class, normal_direction, floor_minor, made_time, place)
ORDER BY told.place
ON CONFLICT (tenant, address) DO UPDATE SET
    account_class = excluded.account_class, normal_direction = excluded.normal_direction,
    floor_minor = excluded.floor_minor, opened_time = excluded.opened_time

-- name: books_moved
-- Increases the version of the books, so that workers and the API load their copy of the books again.
UPDATE ledger.books_version SET version = version + 1, changed_time = now()

-- name: adopt
-- Writes a fact for each row of the frame that has none; returns the number of these rows.
SELECT ledger.adopt_frame(%(author)s) AS adopted
