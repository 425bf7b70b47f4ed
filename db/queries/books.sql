-- name: books
-- The version, tenants, chart lines, units and the intake in one statement, so that all are of one snapshot.
SELECT
    (SELECT version FROM ledger.books_version) AS version,
    ARRAY(SELECT tenant FROM ledger.tenant ORDER BY tenant) AS tenants,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_array(
            tenant, pattern, account_class, normal_direction, floor_minor, to_jsonb(currencies)
        )), '[]')
        FROM ledger.chart_pattern
    ) AS lines,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(tenant, code, exponent)), '[]') FROM ledger.unit) AS units,
    (SELECT closed_because FROM ledger.intake) AS closed_because,
    (SELECT lanes FROM ledger.intake) AS lanes

-- name: version
-- The number that increases with every change of the books.
SELECT version FROM ledger.books_version

-- name: author
-- Sets who changes the frame in this transaction; the triggers record it.
SELECT set_config('ledgerline.done_by', coalesce(%(done_by)s::text, ''), TRUE)

-- name: add_tenant
-- Add a tenant; return no row if it exists.
INSERT INTO ledger.tenant (tenant) VALUES (%(tenant)s)
ON CONFLICT DO NOTHING
RETURNING tenant

-- name: tenants
-- All tenants, with how many chart lines, units and accounts each has.
SELECT
    t.tenant,
    t.created_time,
    (SELECT count(*) FROM ledger.chart_pattern AS c WHERE c.tenant = t.tenant) AS chart_lines,
    (SELECT count(*) FROM ledger.unit AS u WHERE u.tenant = t.tenant) AS units,
    (SELECT count(*) FROM ledger.account AS a WHERE a.tenant = t.tenant) AS accounts
FROM ledger.tenant AS t
ORDER BY t.tenant

-- name: set_chart_line
-- Add a line to a tenant's chart, or replace the line with the same pattern.
INSERT INTO ledger.chart_pattern (tenant, pattern, account_class, normal_direction, floor_minor, currencies)
VALUES (
    %(tenant)s, %(pattern)s, %(account_class)s, %(normal_direction)s,
    %(floor_minor)s::bigint, %(currencies)s::text[]
)
ON CONFLICT (tenant, pattern) DO UPDATE SET
    account_class = excluded.account_class,
    normal_direction = excluded.normal_direction,
    floor_minor = excluded.floor_minor,
    currencies = excluded.currencies

-- name: remove_chart_line
-- Remove a line from a tenant's chart; return no row if there is no such line. Open accounts do not change.
DELETE FROM ledger.chart_pattern WHERE tenant = %(tenant)s AND pattern = %(pattern)s
RETURNING pattern

-- name: chart_lines
-- A tenant's chart in order of pattern.
SELECT pattern, account_class, normal_direction, floor_minor, currencies
FROM ledger.chart_pattern
WHERE tenant = %(tenant)s
ORDER BY pattern

-- name: add_unit
-- Register a unit; return the stored exponent, so that the caller sees whether it is the wanted one.
WITH added AS (
    INSERT INTO ledger.unit (tenant, code, exponent, name)
    VALUES (%(tenant)s, %(code)s, %(exponent)s::smallint, %(name)s)
    ON CONFLICT (tenant, code) DO NOTHING
    RETURNING exponent
)
SELECT exponent, true AS is_new FROM added
UNION ALL
SELECT exponent, false FROM ledger.unit WHERE tenant = %(tenant)s AND code = %(code)s
LIMIT 1

-- name: units
-- A tenant's registered units.
SELECT code, exponent, name FROM ledger.unit WHERE tenant = %(tenant)s ORDER BY code
