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
        'ledgerline_reconciliation', 'ledgerline_audit', 'ledgerline_worker', 'ledgerline_operator'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
    -- An owner who is no superuser, as at a managed Postgres, may give the roles that he made, and be none of them;
    -- `prepare` does one thing as the operator. From release 16 on membership and SET are two things.
    IF NOT pg_has_role(
        current_user, 'ledgerline_operator',
        CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END
    ) THEN
        GRANT ledgerline_operator TO CURRENT_USER;
    END IF;
END
$$;
