-- Facts about the server that a login reaches.

-- name: server
-- The current user, the server's version, its clock in seconds since 1970, and whether the connection is encrypted.
SELECT
    current_user AS login,
    version() AS version,
    extract(EPOCH FROM clock_timestamp())::float8 AS clock_seconds,
    coalesce((SELECT s.ssl FROM pg_catalog.pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()), FALSE) AS is_encrypted
