-- The roles, one for each service; run by the owner of the cluster, as often as one likes. No passwords here: a
-- deployment makes one login for each service and grants it the service's role.
DO $$
DECLARE
    wanted text;
BEGIN
    -- Two migrations at once on one cluster would both see a role missing.
    PERFORM pg_advisory_xact_lock(hashtext('ledgerline.roles'));
    FOREACH wanted IN ARRAY ARRAY[
        'ledgerline_owner', 'ledgerline_posting', 'ledgerline_relay', 'ledgerline_api',
        'ledgerline_reconciliation', 'ledgerline_audit', 'ledgerline_operator'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END
$$;
