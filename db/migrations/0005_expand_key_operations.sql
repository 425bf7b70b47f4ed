-- Changes of API keys are operations with an author. The CHECK is replaced by a wider one, so no client loses a guarantee;
-- the table has one row for each thing that an operator did, so validating it takes milliseconds.
-- squawk-ignore ban-drop-constraint
ALTER TABLE ledger.operation DROP CONSTRAINT operation_operation_check;
ALTER TABLE ledger.operation ADD CONSTRAINT operation_operation_check CHECK (operation IN (
    'intake_closed', 'intake_opened', 'lanes_adding', 'lanes_added', 'offsets_told', 'reconciliation_rewound',
    'key_added', 'key_changed', 'key_revoked', 'key_removed'
)) NOT VALID;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE ledger.operation VALIDATE CONSTRAINT operation_operation_check;

-- Each change of a key is an operation with an author, whoever makes it: no statement can leave the record out. The author
-- is whom the setting ledgerline.done_by names in the transaction, else the login. No secret and no hash is recorded.
CREATE FUNCTION access.record_key_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    after_change jsonb := to_jsonb(NEW);
    before_change jsonb := to_jsonb(OLD);
    kind text;
    detail jsonb;
BEGIN
    IF TG_OP = 'INSERT' THEN
        kind := 'key_added';
        detail := after_change - ARRAY['secret_hash', 'created_time', 'revoked_time'];
    ELSIF TG_OP = 'DELETE' THEN
        kind := 'key_removed';
        detail := before_change - ARRAY['secret_hash', 'created_time', 'revoked_time'];
    ELSE
        kind := CASE
            WHEN OLD.revoked_time IS NULL AND NEW.revoked_time IS NOT NULL THEN 'key_revoked' ELSE 'key_changed'
        END;
        detail := jsonb_build_object(
            'key_id', OLD.key_id, 'tenant', OLD.tenant, 'name', OLD.name, 'changed', (
                SELECT jsonb_agg(now_is.key ORDER BY now_is.key)
                FROM jsonb_each(after_change) AS now_is
                WHERE now_is.value IS DISTINCT FROM before_change -> now_is.key
            )
        );
    END IF;
    INSERT INTO ledger.operation (done_by, operation, detail)
    VALUES (coalesce(nullif(current_setting('ledgerline.done_by', TRUE), ''), session_user), kind, detail);
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION access.record_key_change FROM PUBLIC;
CREATE TRIGGER api_key_added_or_removed AFTER INSERT OR DELETE ON access.api_key
FOR EACH ROW EXECUTE FUNCTION access.record_key_change();
CREATE TRIGGER api_key_changed AFTER UPDATE ON access.api_key
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION access.record_key_change();
