-- The frame of the books as facts: who made or changed what, in hash chains, for the topic ledger.frame. Releases before do
-- not know them: what they open or change is written down by the triggers. The next migration writes down what is there.

-- Changes of the frame are operations too. The CHECK is replaced by a wider one, so no client loses a guarantee.
-- squawk-ignore ban-drop-constraint
ALTER TABLE ledger.operation DROP CONSTRAINT operation_operation_check;
ALTER TABLE ledger.operation ADD CONSTRAINT operation_operation_check CHECK (operation IN (
    'intake_closed', 'intake_opened', 'lanes_adding', 'lanes_added', 'offsets_told', 'reconciliation_rewound',
    'key_added', 'key_changed', 'key_revoked', 'key_removed',
    'tenant_added', 'unit_added', 'chart_added', 'chart_changed', 'chart_removed'
)) NOT VALID;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE ledger.operation VALIDATE CONSTRAINT operation_operation_check;

-- The frame of the books as facts: tenants, units, lines of charts and openings of accounts, each with who made it, in
-- chains as the journal's rows are. docs/decisions/0021-frame-facts.md tells why triggers write them.
-- Chain -1 is the operators'; chain -2 - n has the accounts that lane n opened, so that lanes do not wait for each other.
CREATE TABLE ledger.fact_chain (
    chain bigint PRIMARY KEY CHECK (chain < 0),
    next_seq bigint NOT NULL DEFAULT 0,
    head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    booked_time bigint NOT NULL DEFAULT 0
);

CREATE TABLE ledger.fact (
    chain bigint NOT NULL,
    seq bigint NOT NULL,
    part text NOT NULL CHECK (part IN ('tenant', 'unit', 'chart', 'account')),
    change text NOT NULL CHECK (change IN ('added', 'changed', 'removed')),
    tenant text NOT NULL,
    -- The unit's code, the line's pattern or the account's address; of a tenant ''.
    name text COLLATE "C" NOT NULL,
    account_class text,
    normal_direction bigint,
    floor_minor bigint,
    -- Codes, comma separated; null: all.
    currencies text,
    exponent bigint,
    title text,
    -- When the tenant was made or the account opened.
    made_time bigint,
    author text NOT NULL,
    booked_time bigint NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (chain, seq)
);

-- The frame as it stands, in the words of the facts.
CREATE VIEW ledger.frame AS
SELECT
    'tenant' AS part, t.tenant, '' COLLATE "C" AS name, NULL::text AS account_class, NULL::bigint AS normal_direction,
    NULL::bigint AS floor_minor, NULL::text AS currencies, NULL::bigint AS exponent, NULL::text AS title,
    (extract(EPOCH FROM t.created_time) * 1000000)::bigint AS made_time
FROM ledger.tenant AS t
UNION ALL
SELECT 'unit', u.tenant, u.code, NULL, NULL, NULL, NULL, u.exponent, u.name, NULL
FROM ledger.unit AS u
UNION ALL
SELECT
    'chart', c.tenant, c.pattern, c.account_class, c.normal_direction, c.floor_minor,
    array_to_string(c.currencies, ','), NULL, NULL, NULL
FROM ledger.chart_pattern AS c
UNION ALL
SELECT
    'account', a.tenant, a.address, a.account_class, a.normal_direction, a.floor_minor, NULL, NULL, NULL,
    (extract(EPOCH FROM a.opened_time) * 1000000)::bigint
FROM ledger.account AS a;

-- The canonical JSON (RFC 8785) of a fact without its hash: members in order, an amount as a string.
CREATE FUNCTION ledger.fact_json(f ledger.fact) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN '{"account_class":' || coalesce(to_json(f.account_class)::text, 'null')
    || ',"author":' || to_json(f.author)::text
    || ',"booked_time":' || f.booked_time::text
    || ',"chain":' || f.chain::text
    || ',"change":' || to_json(f.change)::text
    || ',"currencies":' || coalesce(to_json(f.currencies)::text, 'null')
    || ',"exponent":' || coalesce(f.exponent::text, 'null')
    || ',"floor_minor":' || coalesce('"' || f.floor_minor::text || '"', 'null')
    || ',"made_time":' || coalesce(f.made_time::text, 'null')
    || ',"name":' || to_json(f.name)::text
    || ',"normal_side":' || CASE f.normal_direction WHEN 1 THEN '"debit"' WHEN -1 THEN '"credit"' ELSE 'null' END
    || ',"part":' || to_json(f.part)::text
    || ',"seq":' || f.seq::text
    || ',"tenant":' || to_json(f.tenant)::text
    || ',"title":' || coalesce(to_json(f.title)::text, 'null')
    || '}';

-- Appends facts to a chain, each with its place, author, time and hash. Only the triggers below call it.
CREATE FUNCTION ledger.append_facts(of_chain bigint, of_author text, facts ledger.fact[]) RETURNS void
LANGUAGE plpgsql SET search_path = ''
AS $$
DECLARE
    stands ledger.fact_chain;
    placed ledger.fact[];
    f ledger.fact;
    hashes bytea[] := '{}';
BEGIN
    IF cardinality(facts) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO ledger.fact_chain (chain) VALUES (of_chain) ON CONFLICT (chain) DO NOTHING;
    SELECT c.* INTO stands FROM ledger.fact_chain AS c WHERE c.chain = of_chain FOR UPDATE;
    stands.booked_time := greatest(stands.booked_time, (extract(EPOCH FROM now()) * 1000000)::bigint);
    placed := ARRAY(
        SELECT ROW(
            of_chain, stands.next_seq + given.place - 1, given.part, given.change, given.tenant, given.name,
            given.account_class, given.normal_direction, given.floor_minor, given.currencies, given.exponent,
            given.title, given.made_time, of_author, stands.booked_time, ''
        )::ledger.fact
        FROM unnest(facts) WITH ORDINALITY AS given (
            chain, seq, part, change, tenant, name, account_class, normal_direction, floor_minor, currencies, exponent,
            title, made_time, author, booked_time, hash, place
        )
        ORDER BY given.place
    );
    -- Only the hashes are made one after another: all else of a batch takes one statement.
    FOREACH f IN ARRAY placed LOOP
        stands.head := sha256(stands.head || convert_to(ledger.fact_json(f), 'UTF8'));
        hashes := hashes || stands.head;
    END LOOP;
    INSERT INTO ledger.fact
    SELECT
        p.chain, p.seq, p.part, p.change, p.tenant, p.name, p.account_class, p.normal_direction, p.floor_minor,
        p.currencies, p.exponent, p.title, p.made_time, p.author, p.booked_time, p.made_hash
    FROM ROWS FROM (unnest(placed), unnest(hashes)) AS p (
        chain, seq, part, change, tenant, name, account_class, normal_direction, floor_minor, currencies, exponent,
        title, made_time, author, booked_time, hash, made_hash
    );
    UPDATE ledger.fact_chain
    SET next_seq = stands.next_seq + cardinality(placed), head = stands.head, booked_time = stands.booked_time
    WHERE chain = of_chain;
END
$$;
REVOKE EXECUTE ON FUNCTION ledger.append_facts FROM PUBLIC;

-- Who changes the frame: the person whom the command line names, else the login.
CREATE FUNCTION ledger.fact_author() RETURNS text
LANGUAGE sql STABLE
RETURN coalesce(nullif(current_setting('ledgerline.done_by', true), ''), session_user::text);

-- Posting names the chain of its lane in its transaction; what others open is the operators'.
CREATE FUNCTION ledger.account_opened() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    PERFORM ledger.append_facts(
        coalesce(nullif(current_setting('ledgerline.chain', true), '')::bigint, -1),
        ledger.fact_author(),
        ARRAY(
            SELECT ROW(
                0, 0, 'account', 'added', a.tenant, a.address, a.account_class, a.normal_direction, a.floor_minor, NULL,
                NULL, NULL, (extract(EPOCH FROM a.opened_time) * 1000000)::bigint, '', 0, ''
            )::ledger.fact
            FROM opened AS a
            ORDER BY a.account_id
        )
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER account_opened AFTER INSERT ON ledger.account
REFERENCING NEW TABLE AS opened
FOR EACH STATEMENT EXECUTE FUNCTION ledger.account_opened();

-- A change of the frame is a fact and an operation, each with its author.
CREATE FUNCTION ledger.record_frame_change(f ledger.fact) RETURNS void
LANGUAGE plpgsql SET search_path = ''
AS $$
BEGIN
    PERFORM ledger.append_facts(-1, ledger.fact_author(), ARRAY[f]);
    -- The chart that a tenant is made with is part of making it.
    IF f.part = 'chart' AND EXISTS (
        SELECT FROM ledger.tenant AS t WHERE t.tenant = f.tenant AND t.created_time = now()
    ) THEN
        RETURN;
    END IF;
    INSERT INTO ledger.operation (done_by, operation, detail)
    VALUES (
        ledger.fact_author(), f.part || '_' || f.change,
        jsonb_strip_nulls(jsonb_build_object(
            'tenant', f.tenant, 'name', nullif(f.name, ''), 'account_class', f.account_class,
            'normal_direction', f.normal_direction, 'floor_minor', f.floor_minor, 'currencies', f.currencies,
            'exponent', f.exponent
        ))
    );
END
$$;
REVOKE EXECUTE ON FUNCTION ledger.record_frame_change FROM PUBLIC;

CREATE FUNCTION ledger.tenant_added() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    PERFORM ledger.record_frame_change(ROW(
        0, 0, 'tenant', 'added', NEW.tenant, '', NULL, NULL, NULL, NULL, NULL, NULL,
        (extract(EPOCH FROM NEW.created_time) * 1000000)::bigint, '', 0, ''
    )::ledger.fact);
    RETURN NULL;
END
$$;

CREATE TRIGGER tenant_added AFTER INSERT ON ledger.tenant
FOR EACH ROW EXECUTE FUNCTION ledger.tenant_added();

CREATE FUNCTION ledger.unit_added() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    PERFORM ledger.record_frame_change(ROW(
        0, 0, 'unit', 'added', NEW.tenant, NEW.code, NULL, NULL, NULL, NULL, NEW.exponent, NEW.name, NULL, '', 0, ''
    )::ledger.fact);
    RETURN NULL;
END
$$;

CREATE TRIGGER unit_added AFTER INSERT ON ledger.unit
FOR EACH ROW EXECUTE FUNCTION ledger.unit_added();

-- A line whose tenant or pattern changes is removed, and another one added.
CREATE FUNCTION ledger.chart_line_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    is_same_line boolean := TG_OP = 'UPDATE' AND (OLD.tenant, OLD.pattern) = (NEW.tenant, NEW.pattern);
BEGIN
    IF TG_OP <> 'INSERT' AND NOT is_same_line THEN
        PERFORM ledger.record_frame_change(ROW(
            0, 0, 'chart', 'removed', OLD.tenant, OLD.pattern, OLD.account_class, OLD.normal_direction, OLD.floor_minor,
            array_to_string(OLD.currencies, ','), NULL, NULL, NULL, '', 0, ''
        )::ledger.fact);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM ledger.record_frame_change(ROW(
            0, 0, 'chart', CASE WHEN is_same_line THEN 'changed' ELSE 'added' END, NEW.tenant, NEW.pattern,
            NEW.account_class, NEW.normal_direction, NEW.floor_minor, array_to_string(NEW.currencies, ','), NULL, NULL,
            NULL, '', 0, ''
        )::ledger.fact);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER chart_line_added_or_removed AFTER INSERT OR DELETE ON ledger.chart_pattern
FOR EACH ROW EXECUTE FUNCTION ledger.chart_line_changed();
CREATE TRIGGER chart_line_changed AFTER UPDATE ON ledger.chart_pattern
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION ledger.chart_line_changed();

-- What amounts and balances are read by stays as it was made.
CREATE FUNCTION ledger.refuse_frame_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = ''
AS $$
BEGIN
    RAISE EXCEPTION '% on %.% is refused: tenants, units and open accounts stay as they were made',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER tenant_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.tenant
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_frame_change();
CREATE TRIGGER unit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.unit
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_frame_change();
CREATE TRIGGER account_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.account
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_frame_change();
CREATE TRIGGER chart_pattern_stays BEFORE TRUNCATE ON ledger.chart_pattern
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_frame_change();
CREATE TRIGGER fact_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.fact
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- Writes the fact of each row of the frame that has none, such as of ledgers older than facts; returns how many.
-- In stretches, as an array has no room for millions.
CREATE FUNCTION ledger.adopt_frame(of_author text) RETURNS bigint
LANGUAGE plpgsql SET search_path = ''
AS $$
DECLARE
    stretch ledger.fact[];
    adopted bigint := 0;
BEGIN
    FOR stretch IN
        SELECT array_agg(
            ROW(
                0, 0, numbered.part, 'added', numbered.tenant, numbered.name, numbered.account_class,
                numbered.normal_direction, numbered.floor_minor, numbered.currencies, numbered.exponent, numbered.title,
                numbered.made_time, '', 0, ''
            )::ledger.fact
            ORDER BY numbered.place
        )
        FROM (
            SELECT
                w.*,
                row_number() OVER (
                    ORDER BY array_position(ARRAY['tenant', 'unit', 'chart', 'account'], w.part), w.tenant, w.name
                ) AS place
            FROM ledger.frame AS w
            WHERE NOT EXISTS (
                SELECT FROM ledger.fact AS f
                WHERE f.part = w.part AND f.tenant = w.tenant AND f.name = w.name
            )
        ) AS numbered
        GROUP BY (numbered.place - 1) / 10000
        ORDER BY (numbered.place - 1) / 10000
    LOOP
        PERFORM ledger.append_facts(-1, of_author, stretch);
        adopted := adopted + cardinality(stretch);
    END LOOP;
    RETURN adopted;
END
$$;
REVOKE EXECUTE ON FUNCTION ledger.adopt_frame FROM PUBLIC;

-- What the topic ledger.frame says of the books' frame: how far it is read, where its chains stand, and each row of the
-- frame as its last fact has it.
CREATE TABLE reconciliation.frame_reader (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    next_offset bigint NOT NULL
);
INSERT INTO reconciliation.frame_reader (next_offset) VALUES (0);

CREATE TABLE reconciliation.fact_chain (
    chain bigint PRIMARY KEY,
    next_seq bigint NOT NULL,
    head bytea NOT NULL
);

CREATE TABLE reconciliation.frame (
    part text NOT NULL,
    tenant text NOT NULL,
    name text COLLATE "C" NOT NULL,
    account_class text,
    normal_direction bigint,
    floor_minor bigint,
    -- Codes, comma separated; null: all.
    currencies text,
    exponent bigint,
    title text,
    made_time bigint,
    PRIMARY KEY (part, tenant, name)
);

GRANT SELECT ON ledger.fact_chain, ledger.fact, ledger.frame TO ledgerline_posting, ledgerline_api,
ledgerline_reconciliation, ledgerline_audit, ledgerline_operator;
GRANT SELECT ON ledger.fact, ledger.fact_chain TO ledgerline_relay;
GRANT SELECT ON reconciliation.frame_reader, reconciliation.fact_chain, reconciliation.frame
TO ledgerline_api, ledgerline_operator;
GRANT SELECT, UPDATE ON reconciliation.frame_reader TO ledgerline_reconciliation;
GRANT SELECT, INSERT, UPDATE ON reconciliation.fact_chain TO ledgerline_reconciliation;
GRANT SELECT, INSERT, UPDATE, DELETE ON reconciliation.frame TO ledgerline_reconciliation;
