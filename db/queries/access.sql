-- name: add
-- Store a new key; only the hash of its secret is kept.
INSERT INTO access.api_key (key_id, tenant, name, secret_hash, scopes, requests_per_minute, expires_time)
VALUES (
    %(key_id)s, %(tenant)s, %(name)s, %(secret_hash)s, %(scopes)s::text[], %(requests_per_minute)s::integer,
    %(expires_time)s
)

-- name: author
-- Sets who changes keys in this transaction; the trigger of access.api_key records it.
SELECT set_config('ledgerline.done_by', coalesce(%(done_by)s::text, ''), TRUE)

-- name: cursor_key
-- The secret that authenticates this ledger's cursors.
SELECT secret FROM access.cursor_key

-- name: find
-- Those of these keys that are not revoked; the caller checks whether they have expired.
SELECT key_id, tenant, name, secret_hash, scopes, requests_per_minute, expires_time
FROM access.api_key
WHERE key_id = any(%(key_ids)s::text[]) AND revoked_time IS NULL

-- name: list
-- All keys, revoked ones too, of one tenant or of all tenants.
SELECT key_id, tenant, name, scopes, requests_per_minute, created_time, revoked_time, expires_time
FROM access.api_key
WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s::text
ORDER BY created_time, key_id

-- name: revoke
-- Revoke a key; if it was revoked before, the first time stays.
UPDATE access.api_key SET revoked_time = coalesce(revoked_time, now())
WHERE key_id = %(key_id)s
RETURNING key_id
