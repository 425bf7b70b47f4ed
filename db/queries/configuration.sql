-- What a login learns of the server that it came to.

-- name: server
-- Who we are to it, its version, its clock in seconds since 1970, and whether the connection is encrypted.
SELECT
    current_user AS login,
    version() AS version,
    extract(EPOCH FROM clock_timestamp())::float8 AS clock_seconds,
    coalesce((SELECT s.ssl FROM pg_catalog.pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()), FALSE) AS is_encrypted
