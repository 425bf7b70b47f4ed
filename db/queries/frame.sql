-- The frame of the books, out of one database and into another: each row as JSON, its members named as the columns.
-- What ledger.journal does not say of the accounts, and what is needed to go on beside it.

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
-- All accounts with what the chart said when they were opened, in the order of their opening.
SELECT to_jsonb(a) - 'account_id' AS exported FROM ledger.account AS a ORDER BY a.account_id

-- name: api_keys
-- All API keys; of the secrets there are only hashes.
SELECT to_jsonb(k) AS exported FROM access.api_key AS k ORDER BY k.key_id

-- name: signing_keys
-- The public keys that have signed checkpoints.
SELECT to_jsonb(k) AS exported FROM audit.signing_key AS k ORDER BY k.key_id

-- name: topics
-- The topics that the lanes are made of, with the ids that Kafka gave them.
SELECT DISTINCT jsonb_build_object('topic', l.topic, 'topic_id', l.topic_id) AS exported
FROM ledger.lane AS l
WHERE l.next_seq > 0

-- name: add_tenants
-- Tenants keep the time at which they were made, by which reconciliation judges who was unknown when.
INSERT INTO ledger.tenant
SELECT * FROM jsonb_populate_recordset(NULL::ledger.tenant, %(rows)s::jsonb)
ON CONFLICT (tenant) DO NOTHING

-- name: add_units
-- Units never change, so those that are there stay.
INSERT INTO ledger.unit
SELECT * FROM jsonb_populate_recordset(NULL::ledger.unit, %(rows)s::jsonb)
ON CONFLICT (tenant, code) DO NOTHING

-- name: drop_chart
-- Lines that the charts of these books do not have.
DELETE FROM ledger.chart_pattern AS c
WHERE NOT EXISTS (
    SELECT
    FROM jsonb_populate_recordset(NULL::ledger.chart_pattern, %(rows)s::jsonb) AS wanted
    WHERE wanted.tenant = c.tenant AND wanted.pattern = c.pattern
)

-- name: add_chart
-- The lines of the charts as these books have them.
INSERT INTO ledger.chart_pattern
SELECT * FROM jsonb_populate_recordset(NULL::ledger.chart_pattern, %(rows)s::jsonb)
ON CONFLICT (tenant, pattern) DO UPDATE SET
    account_class = excluded.account_class, normal_direction = excluded.normal_direction,
    floor_minor = excluded.floor_minor, currencies = excluded.currencies

-- name: add_accounts
-- Accounts that are not open yet, with what the chart said when they were.
INSERT INTO ledger.account (tenant, address, account_class, normal_direction, floor_minor, opened_time)
SELECT a.tenant, a.address, a.account_class, a.normal_direction, a.floor_minor, a.opened_time
FROM jsonb_array_elements(%(rows)s::jsonb) WITH ORDINALITY AS given (exported, place)
CROSS JOIN LATERAL jsonb_populate_record(NULL::ledger.account, given.exported) AS a
ORDER BY given.place
ON CONFLICT (tenant, address) DO NOTHING

-- name: add_api_keys
-- API keys of the tenants that there are; one that was revoked here or there stays revoked, and the earlier end holds (least leaves nulls out).
INSERT INTO access.api_key AS known
SELECT * FROM jsonb_populate_recordset(NULL::access.api_key, %(rows)s::jsonb) AS given
WHERE EXISTS (SELECT FROM ledger.tenant AS t WHERE t.tenant = given.tenant)
ON CONFLICT (key_id) DO UPDATE SET
    revoked_time = coalesce(known.revoked_time, excluded.revoked_time),
    expires_time = least(known.expires_time, excluded.expires_time)

-- name: add_signing_keys
-- Public keys, by which checkpoints of the topic are verified.
INSERT INTO audit.signing_key
SELECT * FROM jsonb_populate_recordset(NULL::audit.signing_key, %(rows)s::jsonb)
ON CONFLICT (key_id) DO NOTHING

-- name: has_tenants
-- Whether the database has a frame of its own.
SELECT EXISTS (SELECT FROM ledger.tenant) AS has_tenants
