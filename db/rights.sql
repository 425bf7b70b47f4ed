-- What everybody on a server may do unless it is taken away: run after the migrations, by the owner, as often as one
-- likes, because a restored or copied database has its server's defaults again. Each part is left where the owner may
-- not decide it; docs/SECURITY.md says what that leaves, and what Postgres cannot take away at all.
DO $$
DECLARE
    services CONSTANT text := 'ledgerline_posting, ledgerline_relay, ledgerline_api, ledgerline_reconciliation, '
        'ledgerline_audit, ledgerline_worker, ledgerline_operator';
    this_database CONSTANT text := current_database();
    found record;
BEGIN
    -- Temporary tables, and logins that are for something else on this server. Who watches the server may still look.
    IF pg_has_role((SELECT datdba FROM pg_catalog.pg_database WHERE datname = this_database), 'USAGE')
        AND (
            has_database_privilege('public', this_database, 'TEMPORARY')
            OR has_database_privilege('public', this_database, 'CONNECT')
        )
    THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO ledgerline_owner, pg_monitor, %s', this_database, services);
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', this_database);
    END IF;

    -- Large objects: nothing of ours uses them, and whoever makes one fills the disk past every table's rights.
    FOR found IN
        SELECT oid::regprocedure AS name FROM pg_catalog.pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea')
            AND pg_has_role(proowner, 'USAGE') AND has_function_privilege('public', oid, 'EXECUTE')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', found.name);
    END LOOP;

    -- Functions of ours: triggers need no right to be called, and the others are for the services.
    FOR found IN
        SELECT oid::regprocedure AS name, prorettype = 'trigger'::regtype AS is_trigger FROM pg_catalog.pg_proc
        WHERE pronamespace::regnamespace::text IN ('ledger', 'access', 'reconciliation', 'audit', 'replay', 'outbox', 'worker', 'calls', 'schedules', 'webhooks')
            AND pg_has_role(proowner, 'USAGE') AND has_function_privilege('public', oid, 'EXECUTE')
    LOOP
        IF NOT found.is_trigger THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', found.name, services);
        END IF;
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', found.name);
    END LOOP;
END
$$;
