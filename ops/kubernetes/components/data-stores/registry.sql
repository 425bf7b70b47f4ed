-- Run once by the postgres image, on an empty volume: the Schema Registry's own role and database, so that it
-- cannot reach the ledger's.
\getenv registry_password LEDGERLINE_REGISTRY_PASSWORD
CREATE ROLE registry LOGIN PASSWORD :'registry_password';
CREATE DATABASE registry OWNER registry;
-- Nor can the ledger's services reach the registry's, or the server's own.
REVOKE ALL ON DATABASE registry, postgres, template1 FROM PUBLIC;
