-- The key that authenticates the API's cursors. Releases before do not know the table, and their cursors end with them.
CREATE TABLE access.cursor_key (
    is_only boolean PRIMARY KEY DEFAULT TRUE CHECK (is_only),
    secret bytea NOT NULL CHECK (length(secret) = 32)
);
-- Two random UUIDs hold 244 bits of Postgres' own randomness.
INSERT INTO access.cursor_key (secret)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));
GRANT SELECT ON access.cursor_key TO ledgerline_api;
