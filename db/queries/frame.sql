-- Export and import of the books' frame: each row as JSON whose members have the names of the columns. The frame is
-- what ledger.journal does not contain: properties of accounts, and what a ledger needs to continue.

-- name: tenants
-- All tenants.
SELECT to_jsonb(t) AS exported FROM ledger.tenant AS t ORDER BY t.tenant

-- name: units
-- All registered units.
SELECT to_jsonb(u) AS exported FROM ledger.unit AS u ORDER BY u.tenant, u.code

-- name: chart
-- All lines of all charts.
SELECT to_jsonb(c) AS exported FROM ledger.chart_pattern AS c ORDER BY c.tenant, c.pattern

-- name: accounts
-- All accounts with what the chart said when they were opened, in the order of opening.
SELECT to_jsonb(a) - 'account_id' AS exported FROM ledger.account AS a ORDER BY a.account_id

-- name: api_keys
-- All API keys; only hashes of their secrets are stored.
SELECT to_jsonb(k) AS exported FROM access.api_key AS k ORDER BY k.key_id

-- name: signing_keys
-- The public keys that have signed checkpoints.
SELECT to_jsonb(k) AS exported FROM audit.signing_key AS k ORDER BY k.key_id

-- name: topics
-- The topics of the lanes, with their topic ids from Kafka.
SELECT DISTINCT jsonb_build_object('topic', l.topic, 'topic_id', l.topic_id) AS exported
FROM ledger.lane AS l
WHERE l.next_seq > 0

-- name: add_tenants
-- Adds tenants with the time at which they were made: reconciliation needs it to judge which tenant was unknown when.
INSERT INTO ledger.tenant
SELECT * FROM jsonb_populate_recordset(NULL::ledger.tenant, %(rows)s::jsonb)
ON CONFLICT (tenant) DO NOTHING

-- name: add_units
-- Adds units; existing ones stay, because units never change.
INSERT INTO ledger.unit
SELECT * FROM jsonb_populate_recordset(NULL::ledger.unit, %(rows)s::jsonb)
ON CONFLICT (tenant, code) DO NOTHING

-- name: drop_chart
-- Deletes the chart lines that the imported books do not have.
DELETE FROM ledger.chart_pattern AS c
WHERE NOT EXISTS (
    SELECT
    FROM jsonb_populate_recordset(NULL::ledger.chart_pattern, %(rows)s::jsonb) AS wanted
    WHERE wanted.tenant = c.tenant AND wanted.pattern = c.pattern
)

-- name: add_chart
-- Adds or replaces the chart lines of the imported books.
INSERT INTO ledger.chart_pattern
SELECT * FROM jsonb_populate_recordset(NULL::ledger.chart_pattern, %(rows)s::jsonb)
ON CONFLICT (tenant, pattern) DO UPDATE SET
    account_class = excluded.account_class, normal_direction = excluded.normal_direction,
    floor_minor = excluded.floor_minor, currencies = excluded.currencies

-- name: add_accounts
-- Opens the accounts that are not open yet, with what the chart said when they were opened.
INSERT INTO ledger.account (tenant, address, account_class, normal_direction, floor_minor, opened_time)
SELECT a.tenant, a.address, a.account_class, a.normal_direction, a.floor_minor, a.opened_time
FROM jsonb_array_elements(%(rows)s::jsonb) WITH ORDINALITY AS given (exported, place)
CROSS JOIN LATERAL jsonb_populate_record(NULL::ledger.account, given.exported) AS a
ORDER BY given.place
ON CONFLICT (tenant, address) DO NOTHING

-- name: add_api_keys
-- Adds the API keys of existing tenants. A key that is revoked on either side stays revoked, and the earlier expiry
-- wins (least ignores nulls).
INSERT INTO access.api_key AS known
SELECT * FROM jsonb_populate_recordset(NULL::access.api_key, %(rows)s::jsonb) AS given
WHERE EXISTS (SELECT FROM ledger.tenant AS t WHERE t.tenant = given.tenant)
ON CONFLICT (key_id) DO UPDATE SET
    revoked_time = coalesce(known.revoked_time, excluded.revoked_time),
    expires_time = least(known.expires_time, excluded.expires_time)

-- name: add_signing_keys
-- Adds the public keys that verify the topic's checkpoints.
INSERT INTO audit.signing_key
SELECT * FROM jsonb_populate_recordset(NULL::audit.signing_key, %(rows)s::jsonb)
ON CONFLICT (key_id) DO NOTHING

-- name: has_tenants
-- Whether the database has a frame of its own.
SELECT EXISTS (SELECT FROM ledger.tenant) AS has_tenants
