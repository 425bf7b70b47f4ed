-- The truth of the database. db/migrations/ adds up to this file; a test proves it.
-- Times that are hashed are bigint microseconds since 1970-01-01 UTC, so that a rebuilt ledger hashes the same.

CREATE SCHEMA ledger;
CREATE SCHEMA access;
CREATE SCHEMA reconciliation;
CREATE SCHEMA audit;
CREATE SCHEMA replay;
CREATE SCHEMA outbox;
CREATE SCHEMA worker;
CREATE SCHEMA calls;
CREATE SCHEMA webhooks;

-- ---------------------------------------------------------------------------------------------------- books

CREATE TABLE ledger.tenant (
    tenant text PRIMARY KEY CHECK (tenant ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    created_time timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ledger.unit (
    tenant text NOT NULL REFERENCES ledger.tenant,
    code text NOT NULL CHECK (code ~ '^[A-Z][A-Z0-9._-]{0,23}$'),
    exponent smallint NOT NULL CHECK (exponent BETWEEN 0 AND 18),
    name text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant, code)
);

-- direction: 1 is debit, -1 is credit; here and in every table.
CREATE TABLE ledger.chart_pattern (
    tenant text NOT NULL REFERENCES ledger.tenant,
    pattern text NOT NULL,
    account_class text NOT NULL CHECK (account_class IN ('asset', 'liability', 'equity', 'income', 'expense')),
    normal_direction smallint NOT NULL CHECK (normal_direction IN (1, -1)),
    floor_minor bigint,
    currencies text[],
    PRIMARY KEY (tenant, pattern)
);

-- One row. Posting workers and the API reload their copy of the books when it moves.
CREATE TABLE ledger.books_version (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    version bigint NOT NULL,
    -- Reconciliation judges a rejection by the books of today only if they have not changed since.
    changed_time timestamptz NOT NULL DEFAULT now()
);
INSERT INTO ledger.books_version (version) VALUES (1);

CREATE FUNCTION ledger.books_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    UPDATE ledger.books_version SET version = version + 1, changed_time = now();
    RETURN NULL;
END
$$;

CREATE TRIGGER tenant_changed AFTER INSERT OR UPDATE OR DELETE ON ledger.tenant
FOR EACH STATEMENT EXECUTE FUNCTION ledger.books_changed();
CREATE TRIGGER unit_changed AFTER INSERT OR UPDATE OR DELETE ON ledger.unit
FOR EACH STATEMENT EXECUTE FUNCTION ledger.books_changed();
CREATE TRIGGER chart_pattern_changed AFTER INSERT OR UPDATE OR DELETE ON ledger.chart_pattern
FOR EACH STATEMENT EXECUTE FUNCTION ledger.books_changed();

-- One row: whether the API takes new intents in, which it notices as it notices a change of the books.
CREATE TABLE ledger.intake (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    -- What clients are told while it is closed; null while it is open.
    closed_because text CHECK (closed_because <> ''),
    -- How many partitions payments.intents has at least: a producer that knows of fewer must look again. Null before
    -- any were added.
    lanes integer
);
INSERT INTO ledger.intake (closed_because) VALUES (NULL);

CREATE TRIGGER intake_changed AFTER UPDATE ON ledger.intake
FOR EACH STATEMENT EXECUTE FUNCTION ledger.books_changed();

-- What operators did to the running ledger: who, when, what; append only. docs/CLI.md documents each operation.
CREATE TABLE ledger.operation (
    operation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    done_time timestamptz NOT NULL DEFAULT now(),
    -- Who sat there, as the machine says; and who logged in, as Postgres knows.
    done_by text NOT NULL,
    login text NOT NULL DEFAULT session_user,
    operation text NOT NULL CHECK (operation IN (
        'intake_closed', 'intake_opened', 'lanes_adding', 'lanes_added', 'offsets_told', 'reconciliation_rewound',
        'key_added', 'key_changed', 'key_revoked', 'key_removed',
        'tenant_added', 'unit_added', 'chart_added', 'chart_changed', 'chart_removed',
        'parked_retried', 'parked_dropped'
    )),
    detail jsonb NOT NULL
);

-- ---------------------------------------------------------------------------------------------------- ledger

-- What the chart said when the account was opened stays with the account.
CREATE TABLE ledger.account (
    account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL REFERENCES ledger.tenant,
    -- In byte order on every server, so that lists by prefix are ranges of the index.
    address text COLLATE "C" NOT NULL,
    account_class text NOT NULL CHECK (account_class IN ('asset', 'liability', 'equity', 'income', 'expense')),
    normal_direction smallint NOT NULL CHECK (normal_direction IN (1, -1)),
    floor_minor bigint,
    opened_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, address)
);

-- The journal has no topic and no offset of its own: row (lane, seq) is the fate of offset first_offset + seq of topic.
CREATE TABLE ledger.lane (
    -- Fits in the 15 bits that row_place has for it.
    lane integer PRIMARY KEY CHECK (lane BETWEEN 0 AND 32767),
    topic text NOT NULL,
    topic_id text NOT NULL,
    first_offset bigint NOT NULL DEFAULT 0,
    next_offset bigint NOT NULL DEFAULT 0,
    next_seq bigint NOT NULL DEFAULT 0,
    head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    booked_time bigint NOT NULL DEFAULT 0,
    -- Every offset has one row, and no row is without its offset.
    CHECK (next_offset - first_offset = next_seq)
);

-- A row and a leg of it in one number, in the order of both: keys of this width are packed by B-trees as they grow,
-- where three columns would leave each page half empty (docs/decisions/0011-bytes-on-disk.md).
CREATE FUNCTION ledger.leg_place(seq bigint, leg integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (seq << 15) + leg;

-- The same of a lane and a row of it.
CREATE FUNCTION ledger.row_place(lane integer, seq bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lane::bigint << 48) + seq;

-- Columns by alignment, widest first, so that no byte of a row is padding. What can be told is not kept: topic and
-- offset of the source are the lane's, the previous hash is that of the row before (32 zero bytes before the first).
CREATE TABLE ledger.journal (
    seq bigint NOT NULL,
    value_time bigint,
    booked_time bigint NOT NULL,
    lane integer NOT NULL,
    leg_count smallint NOT NULL,
    intent_id uuid,
    reverses uuid,
    outcome text NOT NULL
    CHECK (outcome IN ('posted', 'duplicate', 'idempotency_conflict', 'rejected', 'quarantined')),
    reason text NOT NULL,
    detail text NOT NULL,
    tenant text,
    idempotency_key text,
    fingerprint bytea NOT NULL,
    type text,
    reference text,
    metadata jsonb,
    hash bytea NOT NULL,
    -- What only grows needs no room between its keys.
    PRIMARY KEY (lane, seq) WITH (fillfactor = 100),
    CHECK ((outcome = 'quarantined') = (intent_id IS NULL)),
    CHECK ((outcome = 'posted') = (leg_count > 0)),
    CHECK ((outcome IN ('rejected', 'quarantined')) = (reason <> ''))
);

-- An intent is settled once. Its id follows from tenant and key, which posting checks, so the tenant need not be here.
CREATE UNIQUE INDEX journal_settled ON ledger.journal (intent_id)
WHERE outcome IN ('posted', 'rejected');
CREATE INDEX journal_reversals ON ledger.journal (tenant, reverses)
WHERE reverses IS NOT NULL AND outcome = 'posted';

CREATE TABLE ledger.entry (
    seq bigint NOT NULL,
    account_id bigint NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    lane integer NOT NULL,
    leg smallint NOT NULL,
    direction smallint NOT NULL CHECK (direction IN (1, -1)),
    currency text NOT NULL
);

-- Queries of a range of rows' legs must speak of leg_place for these to serve; those of one row's have ledger.legs.
CREATE UNIQUE INDEX entry_place ON ledger.entry (lane, ledger.leg_place(seq, leg)) WITH (fillfactor = 100);
CREATE INDEX entry_account ON ledger.entry (account_id, ledger.row_place(lane, seq));

-- The legs of one journal row, in no order. Postgres writes the body into the query that asks; OFFSET 0 has it looked up
-- row by row there, whatever the planner makes of a range with two unknown ends.
CREATE FUNCTION ledger.legs(of_lane integer, of_seq bigint)
RETURNS TABLE (lane integer, account_id bigint, leg smallint, direction smallint, amount_minor bigint, currency text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT e.lane, e.account_id, e.leg, e.direction, e.amount_minor, e.currency
    FROM ledger.entry AS e
    WHERE
        e.lane = of_lane AND e.seq = of_seq
        AND ledger.leg_place(e.seq, e.leg) >= ledger.leg_place(of_seq, 0)
        AND ledger.leg_place(e.seq, e.leg) < ledger.leg_place(of_seq + 1, 0)
    OFFSET 0;
END;

-- Derived from entry; can be dropped and rebuilt. seq is the last journal row of the lane that touched the shard.
-- The sums of a lifetime are numeric: no sum may make an account refuse what its balance allows
-- (docs/decisions/0015-width-of-sums.md).
CREATE TABLE ledger.balance (
    account_id bigint NOT NULL,
    currency text NOT NULL,
    lane integer NOT NULL,
    debits_minor numeric NOT NULL CHECK (debits_minor >= 0),
    credits_minor numeric NOT NULL CHECK (credits_minor >= 0),
    seq bigint NOT NULL,
    PRIMARY KEY (account_id, currency, lane)
) WITH (fillfactor = 70);

-- What posting signed of each batch of a lane, with a key that no database knows; docs/PROOF.md has the format. The signature
-- is over the hashes of the journal's rows from first_seq to next_seq - 1, and stands in the transaction that made them.
CREATE TABLE ledger.signed_head (
    next_seq bigint NOT NULL,
    first_seq bigint NOT NULL,
    lane integer NOT NULL,
    signature bytea NOT NULL CHECK (length(signature) = 64),
    PRIMARY KEY (lane, next_seq) WITH (fillfactor = 100),
    CHECK (first_seq >= 0 AND first_seq < next_seq)
);

-- The raw bytes behind a quarantined journal row; the relay hands them to payments.quarantine.
CREATE TABLE ledger.quarantine (
    lane integer NOT NULL,
    seq bigint NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL,
    PRIMARY KEY (lane, seq)
);

-- Written before the bytes are sent again, so that no retry is without its record.
CREATE TABLE ledger.quarantine_retry (
    retry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane integer NOT NULL,
    seq bigint NOT NULL,
    retried_time timestamptz NOT NULL DEFAULT now(),
    retried_by text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    -- The partition ended here, so the bytes stand here or behind, with the retry's id in a header.
    from_offset bigint NOT NULL,
    FOREIGN KEY (lane, seq) REFERENCES ledger.quarantine
);

-- Where a retry stands, written when Kafka has confirmed it. A retry without such a row is under way or was cut off.
CREATE TABLE ledger.quarantine_retry_sent (
    retry_id bigint PRIMARY KEY REFERENCES ledger.quarantine_retry,
    -- Null where it was looked for, long after it began, and is not on the topic.
    source_offset bigint,
    confirmed_time timestamptz NOT NULL DEFAULT now()
);

-- Quarantined rows with what became of them: how often they were sent again, of a retry that was quarantined again its
-- origin, and of what is no retry itself whether none of its own was confirmed, and whether none came to a better end.
CREATE VIEW ledger.quarantined AS
SELECT
    j.lane, j.seq, j.reason, j.detail, l.topic AS source_topic, l.first_offset + j.seq AS source_offset, j.booked_time,
    coalesce(length(q.value), 0) AS value_bytes,
    coalesce(tried.retries, 0) AS retries,
    coalesce(tried.unconfirmed, 0) AS unconfirmed,
    origin.lane AS retry_of_lane,
    origin.seq AS retry_of_seq,
    origin.retry_id IS NULL AND coalesce(tried.retries, 0) = 0 AS is_untried,
    origin.retry_id IS NULL AND tried.is_settled IS NOT TRUE AS is_unsettled
FROM ledger.quarantine AS q
INNER JOIN ledger.journal AS j ON j.lane = q.lane AND j.seq = q.seq
INNER JOIN ledger.lane AS l ON l.lane = q.lane
LEFT JOIN (
    SELECT
        t.lane, t.seq, count(s.source_offset) AS retries, count(*) - count(s.retry_id) AS unconfirmed,
        bool_or(f.outcome <> 'quarantined') AS is_settled
    FROM ledger.quarantine_retry AS t
    LEFT JOIN ledger.quarantine_retry_sent AS s ON s.retry_id = t.retry_id
    LEFT JOIN ledger.lane AS r ON r.lane = t.partition AND r.topic = t.topic
    LEFT JOIN ledger.journal AS f ON f.lane = r.lane AND f.seq = s.source_offset - r.first_offset
    GROUP BY t.lane, t.seq
) AS tried ON tried.lane = q.lane AND tried.seq = q.seq
LEFT JOIN (
    ledger.quarantine_retry AS origin
    INNER JOIN ledger.quarantine_retry_sent AS stands ON stands.retry_id = origin.retry_id
) ON origin.partition = j.lane AND stands.source_offset = l.first_offset + j.seq AND origin.topic = l.topic;

-- The database's own check: each statement's entries balance per currency, and belong to posted rows that have
-- just so many legs, numbered from 0: so a second statement can add none, as the numbers are taken. At statement level,
-- as a row-level or deferred trigger would cost more than the write itself. A sum of bigints is numeric: no overflow.
-- The plan is kept, as to plan anew took a fifth of a small batch's time; so it must not be one that reads the table, which
-- is what suits a journal that is still small.
CREATE FUNCTION ledger.entry_balances() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' SET enable_seqscan = off
AS $$
DECLARE
    wrong record;
BEGIN
    SELECT n.lane, n.seq, n.currency INTO wrong
    FROM new_entry AS n
    GROUP BY n.lane, n.seq, n.currency
    HAVING sum(n.direction * n.amount_minor) <> 0
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'journal row (%, %) does not balance in %', wrong.lane, wrong.seq, wrong.currency
        USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_balances';
    END IF;
    -- OFFSET 0: row by row, whatever the planner makes of their number.
    SELECT n.lane, n.seq INTO wrong
    FROM (
        SELECT lane, seq, count(*) AS legs, min(leg) AS first_leg, max(leg) AS last_leg
        FROM new_entry
        GROUP BY lane, seq
    ) AS n
    LEFT JOIN LATERAL (
        SELECT leg_count FROM ledger.journal WHERE lane = n.lane AND seq = n.seq OFFSET 0
    ) AS j ON true
    WHERE j.leg_count IS DISTINCT FROM n.legs OR n.first_leg <> 0 OR n.last_leg <> n.legs - 1
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'journal row (%, %) has other legs than its entries', wrong.lane, wrong.seq
        USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_legs';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER entry_balances AFTER INSERT ON ledger.entry
REFERENCING NEW TABLE AS new_entry
FOR EACH STATEMENT EXECUTE FUNCTION ledger.entry_balances();

-- A lane moves over rows that are all there, with all their legs, and to the hash of the last: so a posted row without
-- entries, which no statement on entry would notice, is never committed behind a lane's head, where readers look.
CREATE FUNCTION ledger.lane_advances() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' SET enable_seqscan = off
AS $$
DECLARE
    found_rows bigint;
    wanted_legs bigint;
    found_legs bigint;
    last_hash bytea;
BEGIN
    SELECT count(*), coalesce(sum(leg_count), 0) INTO found_rows, wanted_legs
    FROM ledger.journal
    WHERE lane = NEW.lane AND seq >= OLD.next_seq AND seq < NEW.next_seq;
    SELECT hash INTO last_hash
    FROM ledger.journal
    WHERE lane = NEW.lane AND seq >= OLD.next_seq AND seq = NEW.next_seq - 1;
    SELECT count(*) INTO found_legs
    FROM ledger.entry
    WHERE
        lane = NEW.lane
        AND ledger.leg_place(seq, leg) >= ledger.leg_place(OLD.next_seq, 0)
        AND ledger.leg_place(seq, leg) < ledger.leg_place(NEW.next_seq, 0);
    IF found_rows <> NEW.next_seq - OLD.next_seq OR found_legs <> wanted_legs OR last_hash IS DISTINCT FROM NEW.head THEN
        RAISE EXCEPTION 'lane % cannot advance from seq % to %: % rows with % of % legs are there, or the head is not theirs',
            NEW.lane, OLD.next_seq, NEW.next_seq, found_rows, found_legs, wanted_legs
        USING ERRCODE = 'check_violation', CONSTRAINT = 'lane_advances';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER lane_advances AFTER UPDATE ON ledger.lane
FOR EACH ROW WHEN (OLD.next_seq IS DISTINCT FROM NEW.next_seq OR OLD.head IS DISTINCT FROM NEW.head)
EXECUTE FUNCTION ledger.lane_advances();

-- Whence the rows of a lane came stands in the lane alone: so it stays, once there are rows.
CREATE FUNCTION ledger.lane_source_stays() RETURNS trigger
LANGUAGE plpgsql SET search_path = ''
AS $$
BEGIN
    RAISE EXCEPTION 'lane % has rows that came from % at offset % on: neither can change',
        OLD.lane, OLD.topic, OLD.first_offset
    USING ERRCODE = 'check_violation', CONSTRAINT = 'lane_source_stays';
END
$$;

CREATE TRIGGER lane_source_stays BEFORE UPDATE OF lane, topic, first_offset ON ledger.lane
FOR EACH ROW WHEN (
    OLD.next_seq > 0
    AND (OLD.lane, OLD.topic, OLD.first_offset) IS DISTINCT FROM (NEW.lane, NEW.topic, NEW.first_offset)
)
EXECUTE FUNCTION ledger.lane_source_stays();

CREATE FUNCTION ledger.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = ''
AS $$
BEGIN
    RAISE EXCEPTION '% on %.% is refused: the journal is append only; correct a mistake by a reversal',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER journal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.journal
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.entry
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER quarantine_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.quarantine
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER quarantine_retry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.quarantine_retry
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER quarantine_retry_sent_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.quarantine_retry_sent
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER signed_head_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.signed_head
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER operation_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.operation
FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

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
-- All branches have the same types and collations: else Postgres reads all accounts to find one by name.
CREATE VIEW ledger.frame AS
SELECT
    'tenant'::text AS part, t.tenant, ''::text COLLATE "C" AS name, NULL::text AS account_class,
    NULL::bigint AS normal_direction, NULL::bigint AS floor_minor, NULL::text AS currencies, NULL::bigint AS exponent,
    NULL::text AS title, (extract(EPOCH FROM t.created_time) * 1000000)::bigint AS made_time
FROM ledger.tenant AS t
UNION ALL
SELECT
    'unit'::text, u.tenant, u.code COLLATE "C", NULL::text, NULL::bigint, NULL::bigint, NULL::text, u.exponent::bigint,
    u.name, NULL::bigint
FROM ledger.unit AS u
UNION ALL
SELECT
    'chart'::text, c.tenant, c.pattern COLLATE "C", c.account_class, c.normal_direction::bigint, c.floor_minor,
    array_to_string(c.currencies, ','), NULL::bigint, NULL::text, NULL::bigint
FROM ledger.chart_pattern AS c
UNION ALL
SELECT
    'account'::text, a.tenant, a.address, a.account_class, a.normal_direction::bigint, a.floor_minor, NULL::text,
    NULL::bigint, NULL::text, (extract(EPOCH FROM a.opened_time) * 1000000)::bigint
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

-- ---------------------------------------------------------------------------------------------------- access

-- Secrets are 256 random bits, so one round of SHA-256 hides them; a slow hash would guard nothing more.
CREATE TABLE access.api_key (
    key_id text PRIMARY KEY,
    tenant text NOT NULL REFERENCES ledger.tenant,
    name text NOT NULL,
    secret_hash bytea NOT NULL,
    scopes text[] NOT NULL,
    requests_per_minute integer CHECK (requests_per_minute > 0),
    created_time timestamptz NOT NULL DEFAULT now(),
    revoked_time timestamptz,
    expires_time timestamptz
);

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

-- One secret of each ledger authenticates the API's cursors, so that all API processes take each other's, after a restart
-- as well. Who has it can name a place in a list that the key in use may read anyway, and no more.
CREATE TABLE access.cursor_key (
    is_only boolean PRIMARY KEY DEFAULT TRUE CHECK (is_only),
    secret bytea NOT NULL CHECK (length(secret) = 32)
);
-- Two random UUIDs hold 244 bits of Postgres' own randomness.
INSERT INTO access.cursor_key (secret)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- ---------------------------------------------------------------------------------------------------- reconciliation

-- What reconciliation knows by itself, from the topics alone. A lane's row moves in the transaction of its batch.
CREATE TABLE reconciliation.lane (
    lane integer PRIMARY KEY,
    next_offset bigint NOT NULL DEFAULT 0,
    next_seq bigint NOT NULL DEFAULT 0,
    source_first_offset bigint,
    posted bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    idempotency_conflict bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    -- Records whose intent retention had deleted before it could be compared.
    expired bigint NOT NULL DEFAULT 0,
    booked_time bigint NOT NULL DEFAULT 0
);

-- Records that the topic has not brought, though later ones of the lane came.
CREATE TABLE reconciliation.gap (
    lane integer NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (lane, seq)
);

CREATE TABLE reconciliation.balance (
    tenant text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    lane integer NOT NULL,
    debits_minor numeric(38, 0) NOT NULL,
    credits_minor numeric(38, 0) NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (tenant, address, currency, lane)
) WITH (fillfactor = 70);

CREATE TABLE reconciliation.total (
    lane integer NOT NULL,
    tenant text NOT NULL,
    currency text NOT NULL,
    account_class text NOT NULL,
    debits_minor numeric(38, 0) NOT NULL,
    credits_minor numeric(38, 0) NOT NULL,
    PRIMARY KEY (lane, tenant, currency, account_class)
);

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

CREATE TABLE reconciliation.break (
    break_id uuid PRIMARY KEY,
    kind text NOT NULL,
    subject text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'explained', 'resolved')),
    lane integer,
    seq bigint,
    detail text NOT NULL,
    evidence jsonb NOT NULL,
    opened_time bigint NOT NULL,
    changed_time bigint NOT NULL,
    -- The state that ledger.breaks was told last; where it differs, it is told again.
    published_state text
);
CREATE INDEX break_unpublished ON reconciliation.break (changed_time) WHERE published_state IS DISTINCT FROM state;
CREATE INDEX break_unresolved ON reconciliation.break (break_id) WHERE state <> 'resolved';

-- What moved on the accounts of symmetry rules and may not have come back yet: one row for each record, account, currency
-- and side. The newest rows that make up what an account is away by are unmatched; the older ones are deleted.
CREATE TABLE reconciliation.unmatched (
    tenant text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    -- 1: debit, -1: credit.
    direction smallint NOT NULL CHECK (direction IN (1, -1)),
    -- -1: what was away already when its rule began.
    lane integer NOT NULL,
    seq bigint NOT NULL,
    amount_minor numeric(38, 0) NOT NULL,
    -- Microseconds since 1970.
    booked_time bigint NOT NULL,
    PRIMARY KEY (tenant, address, currency, direction, lane, seq)
);

-- Lets reconciliation read lanes again from their beginning: what it recomputed of them goes, its breaks keep their life.
-- An operator may ask for just this, and so cannot make reconciliation's books say anything else.
CREATE FUNCTION reconciliation.rewind(rewound_lanes integer [], rewound_by text) RETURNS integer []
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    found_lanes integer [];
BEGIN
    SELECT array_agg(stands.lane) INTO found_lanes
    FROM (
        SELECT lane FROM reconciliation.lane WHERE lane = ANY(rewound_lanes) ORDER BY lane FOR UPDATE
    ) AS stands;
    IF found_lanes IS NULL THEN
        RETURN '{}';
    END IF;
    DELETE FROM reconciliation.balance WHERE lane = ANY(found_lanes);
    DELETE FROM reconciliation.total WHERE lane = ANY(found_lanes);
    DELETE FROM reconciliation.gap WHERE lane = ANY(found_lanes);
    DELETE FROM reconciliation.unmatched WHERE lane = ANY(found_lanes);
    UPDATE reconciliation.lane
    SET
        next_offset = 0, next_seq = 0, source_first_offset = NULL, posted = 0, duplicate = 0,
        idempotency_conflict = 0, rejected = 0, quarantined = 0, expired = 0, booked_time = 0
    WHERE lane = ANY(found_lanes);
    INSERT INTO ledger.operation (done_by, operation, detail)
    VALUES (rewound_by, 'reconciliation_rewound', jsonb_build_object('lanes', found_lanes));
    RETURN found_lanes;
END
$$;
REVOKE EXECUTE ON FUNCTION reconciliation.rewind FROM PUBLIC;
GRANT EXECUTE ON FUNCTION reconciliation.rewind TO ledgerline_operator;

-- ---------------------------------------------------------------------------------------------------- audit

-- Where audit stands in each lane, and the Merkle tree (RFC 6962) over the hashes since the last checkpoint: `peaks`
-- holds the roots of its complete subtrees, from the largest, 32 bytes each.
CREATE TABLE audit.lane (
    lane integer PRIMARY KEY,
    next_offset bigint NOT NULL DEFAULT 0,
    next_seq bigint NOT NULL DEFAULT 0,
    head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    first_seq bigint NOT NULL DEFAULT 0,
    peaks bytea NOT NULL DEFAULT '',
    -- From the one seq on each record must be covered by a signature of posting, and up to the other each is. Null where
    -- none is asked for yet: posting has signed nothing of the lane, or audit does not know posting's key.
    signatures_first_seq bigint,
    signatures_next_seq bigint
);

-- Audit's own copy of the hash of every record, in the order of arrival; append only.
CREATE TABLE audit.segment (
    lane integer NOT NULL,
    first_seq bigint NOT NULL,
    next_seq bigint NOT NULL,
    head bytea NOT NULL,
    -- 32 bytes for each of first_seq to next_seq - 1; zeros for a record that the topic did not bring.
    hashes bytea NOT NULL,
    PRIMARY KEY (lane, first_seq),
    CHECK (length(hashes) = 32 * (next_seq - first_seq))
);
ALTER TABLE audit.segment ALTER COLUMN hashes SET STORAGE EXTERNAL;

CREATE TABLE audit.signing_key (
    key_id text PRIMARY KEY,
    public_key bytea NOT NULL CHECK (length(public_key) = 32),
    first_used_time timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit.checkpoint (
    checkpoint bigint PRIMARY KEY,
    previous_hash bytea NOT NULL,
    root bytea NOT NULL,
    signed_time bigint NOT NULL,
    key_id text NOT NULL REFERENCES audit.signing_key,
    signature bytea NOT NULL
);

CREATE TABLE audit.checkpoint_lane (
    checkpoint bigint NOT NULL REFERENCES audit.checkpoint,
    lane integer NOT NULL,
    first_seq bigint NOT NULL,
    next_seq bigint NOT NULL,
    head bytea NOT NULL,
    records_root bytea NOT NULL,
    PRIMARY KEY (checkpoint, lane)
);
CREATE INDEX checkpoint_lane_range ON audit.checkpoint_lane (lane, next_seq);

-- One row: the next checkpoint that the topic audit.checkpoints has not got. Who signs holds its lock.
CREATE TABLE audit.publication (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    next_checkpoint bigint NOT NULL
);
INSERT INTO audit.publication (next_checkpoint) VALUES (0);

CREATE TABLE audit.break (
    break_id uuid PRIMARY KEY,
    kind text NOT NULL,
    subject text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'explained', 'resolved')),
    lane integer,
    seq bigint,
    detail text NOT NULL,
    evidence jsonb NOT NULL,
    opened_time bigint NOT NULL,
    changed_time bigint NOT NULL,
    published_state text
);
CREATE INDEX break_unpublished ON audit.break (changed_time) WHERE published_state IS DISTINCT FROM state;
CREATE INDEX break_unresolved ON audit.break (break_id) WHERE state <> 'resolved';

CREATE FUNCTION audit.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = ''
AS $$
BEGIN
    RAISE EXCEPTION '% on %.% is refused: what audit has copied or signed stays as it is',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER segment_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.segment
FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER checkpoint_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.checkpoint
FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER checkpoint_lane_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.checkpoint_lane
FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER signing_key_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.signing_key
FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();

-- The provers read the ledger and write their own schemas, nothing else; what they found is there to be read.
GRANT USAGE ON SCHEMA reconciliation TO ledgerline_reconciliation, ledgerline_api, ledgerline_operator;
GRANT USAGE ON SCHEMA audit TO ledgerline_audit, ledgerline_api, ledgerline_operator;
GRANT SELECT ON ALL TABLES IN SCHEMA reconciliation, audit TO ledgerline_api, ledgerline_operator;
GRANT SELECT, INSERT, UPDATE ON reconciliation.lane, reconciliation.balance, reconciliation.total,
reconciliation.break TO ledgerline_reconciliation;
GRANT SELECT, INSERT, DELETE ON reconciliation.gap TO ledgerline_reconciliation;
GRANT SELECT, UPDATE ON reconciliation.frame_reader TO ledgerline_reconciliation;
GRANT SELECT, INSERT, UPDATE ON reconciliation.fact_chain TO ledgerline_reconciliation;
GRANT SELECT, INSERT, UPDATE, DELETE ON reconciliation.frame TO ledgerline_reconciliation;
GRANT SELECT, INSERT, UPDATE, DELETE ON reconciliation.unmatched TO ledgerline_reconciliation;
GRANT SELECT, INSERT ON audit.segment, audit.signing_key, audit.checkpoint, audit.checkpoint_lane TO ledgerline_audit;
GRANT SELECT, INSERT, UPDATE ON audit.lane, audit.break TO ledgerline_audit;
GRANT SELECT, UPDATE ON audit.publication TO ledgerline_audit;

-- ---------------------------------------------------------------------------------------------------- replay

-- An unfinished `ledgerline replay` into an empty ledger: how far each lane is loaded, behind the ledger's own lane, which
-- moves at the end; and what was dropped for the load and is to be made again. Empty where there is none.
CREATE TABLE replay.lane (
    lane integer PRIMARY KEY,
    -- The next offset to read of ledger.journal.
    journal_offset bigint NOT NULL,
    source_topic text NOT NULL,
    first_offset bigint NOT NULL,
    next_seq bigint NOT NULL,
    head bytea NOT NULL,
    booked_time bigint NOT NULL
);

CREATE TABLE replay.dropped (
    step integer PRIMARY KEY,
    relation text NOT NULL,
    restoring_statement text NOT NULL
);

-- ---------------------------------------------------------------------------------------------------- outbox

-- The outbox of the capabilities: a change of state and its events commit together, and the relay publishes the events.

-- A lane numbers its events without gaps, in the order of their commits: an append locks the lane until its commit.
CREATE TABLE outbox.lane (
    lane integer PRIMARY KEY CHECK (lane >= 0),
    next_seq bigint NOT NULL DEFAULT 0,
    -- When the last event was appended, in microseconds since 1970.
    appended_time bigint NOT NULL DEFAULT 0
);
-- domain.events.LANES says how many.
INSERT INTO outbox.lane (lane) SELECT generate_series(0, 7);

CREATE TABLE outbox.event (
    lane integer NOT NULL,
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    -- The topic without its ending `.events`.
    family text NOT NULL,
    -- The name of the Avro record, in the past tense.
    type text NOT NULL,
    tenant text NOT NULL,
    aggregate text NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    -- Avro in the Schema Registry's wire format, as it goes to Kafka.
    value bytea NOT NULL CHECK (octet_length(value) <= 65536),
    correlation_id text,
    traceparent text,
    occurred_time bigint NOT NULL,
    appended_time bigint NOT NULL,
    PRIMARY KEY (lane, seq)
);
-- Two changes that both believe that they made this version of an aggregate cannot both commit.
CREATE UNIQUE INDEX event_version ON outbox.event (tenant, aggregate, version);

CREATE FUNCTION outbox.append(
    lanes integer [], event_ids uuid [], families text [], types text [], tenants text [], aggregates text [],
    versions bigint [], contents bytea [], correlation_ids text [], traceparents text [], occurred_times bigint []
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    appended integer;
    now_microseconds bigint;
BEGIN
    -- In order, so that two appends do not deadlock. The statements below see what the locks waited for.
    PERFORM FROM outbox.lane AS l WHERE l.lane = ANY(lanes) ORDER BY l.lane FOR NO KEY UPDATE;
    now_microseconds := (extract(EPOCH FROM clock_timestamp()) * 1000000)::bigint;
    INSERT INTO outbox.event
    SELECT
        g.lane, l.next_seq + row_number() OVER (PARTITION BY g.lane ORDER BY g.place) - 1, g.event_id, g.family, g.type,
        g.tenant, g.aggregate, g.version, g.value, g.correlation_id, g.traceparent, g.occurred_time, now_microseconds
    FROM unnest(
        lanes, event_ids, families, types, tenants, aggregates, versions, contents, correlation_ids, traceparents,
        occurred_times
    ) WITH ORDINALITY AS g (
        lane, event_id, family, type, tenant, aggregate, version, value, correlation_id, traceparent, occurred_time,
        place
    )
    INNER JOIN outbox.lane AS l ON l.lane = g.lane;
    GET DIAGNOSTICS appended = ROW_COUNT;
    IF appended <> cardinality(lanes) THEN
        RAISE EXCEPTION 'the outbox has no such lane: %', lanes USING ERRCODE = 'foreign_key_violation';
    END IF;
    UPDATE outbox.lane AS l
    SET next_seq = l.next_seq + counted.number, appended_time = now_microseconds
    FROM (SELECT g.lane, count(*) AS number FROM unnest(lanes) AS g (lane) GROUP BY g.lane) AS counted
    WHERE l.lane = counted.lane;
    PERFORM pg_notify('ledgerline_outbox', '');
END
$$;
REVOKE EXECUTE ON FUNCTION outbox.append FROM PUBLIC;

-- ---------------------------------------------------------------------------------------------------- worker

-- The light agents of the capabilities (docs/decisions/0030-shared-parts.md).

-- Where a part of the worker stands in a partition. A part moves it in the transaction that has the effects.
CREATE TABLE worker.position (
    -- `reactions` or `outcomes`. A part keeps its positions when it moves to another process.
    part text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (part, topic, partition)
);

-- Intents that capabilities handed over and that Kafka has not acknowledged yet.
CREATE TABLE worker.intent (
    -- The order of sending. It may have gaps, and nobody keeps a position in it: a row goes once Kafka has the intent.
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    intent_id uuid NOT NULL UNIQUE,
    tenant text NOT NULL,
    capability text NOT NULL,
    -- The record PaymentIntent.
    record jsonb NOT NULL,
    correlation_id text,
    traceparent text,
    handed_over_time bigint NOT NULL
);

-- Work whose handler failed, and later work of the same subject, which waits for it.
CREATE TABLE worker.parked (
    -- The order of the work of a subject.
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    part text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    message_offset bigint NOT NULL,
    capability text NOT NULL,
    -- What failed, for people: the event's type, or the outcome.
    task text NOT NULL,
    tenant text NOT NULL,
    -- Work of one subject is done in order: the aggregate of an event, the first part of an intent's key.
    subject text NOT NULL,
    -- The message as it stands on the topic.
    message_value bytea NOT NULL,
    message_headers jsonb NOT NULL,
    -- Why the last attempt failed; empty if the work only waits for earlier work of its subject.
    reason text NOT NULL,
    attempts integer NOT NULL,
    parked_time bigint NOT NULL,
    -- The next attempt, in microseconds since 1970.
    due_time bigint NOT NULL,
    UNIQUE (part, capability, topic, partition, message_offset)
);
CREATE INDEX parked_subject ON worker.parked (part, capability, tenant, subject, place);
CREATE INDEX parked_due ON worker.parked (due_time);

-- ---------------------------------------------------------------------------------------------------- calls

-- Outside calls: the one outbox to the world (docs/decisions/0032-outside-calls.md).

CREATE TABLE calls.call (
    call_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    -- Names the handler (streams.capabilities).
    kind text NOT NULL,
    -- The idempotency key that the other side gets.
    key text NOT NULL,
    -- What shares a rate limit and a circuit breaker. Ordered as Python orders text.
    destination text COLLATE "C" NOT NULL,
    data jsonb NOT NULL,
    state text NOT NULL DEFAULT 'waiting'
    CHECK (state IN ('waiting', 'under_way', 'unknown', 'answered', 'given_up')),
    -- The claims of the call. The number fences a worker whose lease has ended.
    attempts integer NOT NULL DEFAULT 0,
    -- When a worker must look at the call, in microseconds since 1970; the end of the lease while it is under way; NULL
    -- if nothing is left to do.
    due_time bigint,
    asked_time bigint NOT NULL,
    -- domain.outside_calls.Fate, once it is decided.
    fate text CHECK (fate IN ('done', 'refused', 'given_up', 'unknown')),
    answer_status integer,
    answer_body bytea CHECK (octet_length(answer_body) <= 65536),
    last_failure text NOT NULL DEFAULT '',
    UNIQUE (kind, key)
);
-- Claims go from destination to destination, so that the backlog of one delays no other.
CREATE INDEX call_due ON calls.call (destination, due_time) WHERE due_time IS NOT NULL;
-- Settled calls are deleted by age, kind by kind.
CREATE INDEX call_settled ON calls.call (kind, asked_time) WHERE due_time IS NULL;

-- ---------------------------------------------------------------------------------------------------- webhooks

-- Endpoints of tenants, and what is delivered to them (docs/WEBHOOKS.md). Times are microseconds since 1970.

CREATE TABLE webhooks.endpoint (
    tenant text NOT NULL,
    endpoint_id uuid NOT NULL,
    url text NOT NULL,
    description text NOT NULL,
    -- Types of events, such as ledger.posted, schedule.* or *.
    filters text [] NOT NULL,
    -- Addresses and beginnings of addresses; empty for all.
    accounts text [] NOT NULL,
    -- Deliveries of one lane or aggregate wait for each other.
    ordered boolean NOT NULL,
    enabled boolean NOT NULL DEFAULT TRUE,
    -- Why the worker disabled it; empty if it is enabled, or a person disabled it.
    disabled_because text NOT NULL DEFAULT '',
    -- The worker signs with these. docs/SECURITY.md says how they are protected.
    secret bytea NOT NULL CHECK (octet_length(secret) BETWEEN 24 AND 64),
    previous_secret bytea,
    previous_until bigint,
    -- Idempotency keys of the creation, with the digest of its body, and of the last rotation.
    created_key text NOT NULL,
    created_digest bytea NOT NULL,
    rotated_key text,
    -- The first failed attempt since the last success.
    failing_since bigint,
    -- How often the worker disabled it: the version of the last notice's event.
    notices bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 1,
    created_time bigint NOT NULL,
    changed_time bigint NOT NULL,
    PRIMARY KEY (tenant, endpoint_id),
    UNIQUE (tenant, created_key)
);

-- The worker keeps all endpoints in memory, and reads them again when this number changes.
CREATE TABLE webhooks.endpoints_version (
    version bigint NOT NULL
);
INSERT INTO webhooks.endpoints_version (version) VALUES (0);

CREATE FUNCTION webhooks.count_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    UPDATE webhooks.endpoints_version SET version = version + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER endpoint_changed AFTER INSERT OR DELETE
OR UPDATE OF url, filters, accounts, ordered, enabled ON webhooks.endpoint
FOR EACH STATEMENT EXECUTE FUNCTION webhooks.count_change();

-- A body is stored once, for all endpoints that get it.
CREATE TABLE webhooks.message (
    tenant text NOT NULL,
    message_id text NOT NULL,
    type text NOT NULL,
    ordering text NOT NULL,
    body bytea NOT NULL CHECK (octet_length(body) <= 65536),
    occurred_time bigint NOT NULL,
    stored_time bigint NOT NULL,
    PRIMARY KEY (tenant, message_id)
);
CREATE INDEX message_stored ON webhooks.message (stored_time);

CREATE TABLE webhooks.delivery (
    -- The order of capture, in which an ordered endpoint gets its deliveries.
    place bigint GENERATED ALWAYS AS IDENTITY,
    tenant text NOT NULL,
    delivery_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    message_id text NOT NULL,
    -- Empty for the first series of attempts; each replay begins a series, named by its idempotency key.
    series text NOT NULL,
    ordering text NOT NULL,
    -- held: waits for an earlier delivery of its ordering. waiting: has a next attempt. delivered and failed are final.
    state text NOT NULL CHECK (state IN ('held', 'waiting', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    next_time bigint,
    last_status integer,
    last_error text NOT NULL DEFAULT '',
    latency_microseconds bigint,
    created_time bigint NOT NULL,
    settled_time bigint,
    PRIMARY KEY (tenant, delivery_id),
    UNIQUE (tenant, endpoint_id, message_id, series),
    FOREIGN KEY (tenant, endpoint_id) REFERENCES webhooks.endpoint ON DELETE CASCADE,
    FOREIGN KEY (tenant, message_id) REFERENCES webhooks.message ON DELETE CASCADE
);
CREATE INDEX delivery_listed ON webhooks.delivery (tenant, endpoint_id, place);
CREATE INDEX delivery_message ON webhooks.delivery (tenant, message_id);
CREATE INDEX delivery_due ON webhooks.delivery (tenant, endpoint_id, next_time) WHERE state = 'waiting';
CREATE INDEX delivery_ordering ON webhooks.delivery (tenant, endpoint_id, ordering, place)
WHERE state IN ('held', 'waiting');

CREATE TABLE webhooks.attempt (
    tenant text NOT NULL,
    delivery_id uuid NOT NULL,
    attempt integer NOT NULL,
    attempted_time bigint NOT NULL,
    status integer,
    error text NOT NULL,
    latency_microseconds bigint NOT NULL,
    -- The beginning of the endpoint's own answer.
    excerpt text NOT NULL CHECK (octet_length(excerpt) <= 1024),
    PRIMARY KEY (tenant, delivery_id, attempt),
    FOREIGN KEY (tenant, delivery_id) REFERENCES webhooks.delivery ON DELETE CASCADE
);

-- The API sees the tenant of its transaction only (set_config('ledgerline.tenant', ..., true)); the worker sees all.
ALTER TABLE webhooks.endpoint ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.message ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.delivery ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.attempt ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON webhooks.endpoint TO ledgerline_api
USING (tenant = (SELECT current_setting('ledgerline.tenant', TRUE)));
CREATE POLICY of_tenant ON webhooks.message TO ledgerline_api
USING (tenant = (SELECT current_setting('ledgerline.tenant', TRUE)));
CREATE POLICY of_tenant ON webhooks.delivery TO ledgerline_api
USING (tenant = (SELECT current_setting('ledgerline.tenant', TRUE)));
CREATE POLICY of_tenant ON webhooks.attempt TO ledgerline_api
USING (tenant = (SELECT current_setting('ledgerline.tenant', TRUE)));
CREATE POLICY of_worker ON webhooks.endpoint TO ledgerline_worker USING (TRUE);
CREATE POLICY of_worker ON webhooks.message TO ledgerline_worker USING (TRUE);
CREATE POLICY of_worker ON webhooks.delivery TO ledgerline_worker USING (TRUE);
CREATE POLICY of_worker ON webhooks.attempt TO ledgerline_worker USING (TRUE);

-- ---------------------------------------------------------------------------------------------------- rights

GRANT USAGE ON SCHEMA ledger TO ledgerline_posting, ledgerline_relay, ledgerline_api,
ledgerline_reconciliation, ledgerline_audit, ledgerline_operator;

GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO ledgerline_posting, ledgerline_api,
ledgerline_reconciliation, ledgerline_audit, ledgerline_operator;
GRANT SELECT ON ledger.lane, ledger.journal, ledger.entry, ledger.account, ledger.quarantine TO ledgerline_relay;
GRANT SELECT ON ledger.fact, ledger.fact_chain TO ledgerline_relay;
GRANT SELECT ON ledger.signed_head TO ledgerline_relay;

GRANT INSERT ON ledger.journal, ledger.entry, ledger.quarantine, ledger.account, ledger.signed_head TO ledgerline_posting;
GRANT INSERT, UPDATE ON ledger.lane, ledger.balance TO ledgerline_posting;
-- Postgres asks for UPDATE on a column before it lets a role lock rows; opened_time is the one that harms least.
GRANT UPDATE (opened_time) ON ledger.account TO ledgerline_posting;

-- People at the command line: they keep the books' frame, and never touch what was posted.
GRANT INSERT, UPDATE, DELETE ON ledger.tenant, ledger.unit, ledger.chart_pattern TO ledgerline_operator;
GRANT UPDATE (closed_because, lanes) ON ledger.intake TO ledgerline_operator;
GRANT INSERT ON ledger.quarantine_retry, ledger.quarantine_retry_sent, ledger.operation TO ledgerline_operator;

GRANT USAGE ON SCHEMA access TO ledgerline_api, ledgerline_operator;
GRANT SELECT ON access.api_key TO ledgerline_api, ledgerline_operator;
GRANT SELECT ON access.cursor_key TO ledgerline_api;
GRANT INSERT, UPDATE ON access.api_key TO ledgerline_operator;

GRANT USAGE ON SCHEMA outbox TO ledgerline_api, ledgerline_relay, ledgerline_operator;
GRANT EXECUTE ON FUNCTION outbox.append TO ledgerline_api;
GRANT SELECT ON outbox.lane, outbox.event TO ledgerline_relay, ledgerline_operator;
-- The relay deletes what is published and older than the outbox keeps.
GRANT DELETE ON outbox.event TO ledgerline_relay;

GRANT USAGE ON SCHEMA worker TO ledgerline_worker, ledgerline_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON worker.position, worker.intent, worker.parked TO ledgerline_worker;
GRANT SELECT ON worker.position, worker.intent, worker.parked TO ledgerline_operator;
-- An operator lets parked work be tried at once, or drops it.
GRANT UPDATE (due_time), DELETE ON worker.parked TO ledgerline_operator;
-- An operator moves a part by hand (`ledgerline offsets seek`).
GRANT INSERT, UPDATE ON worker.position TO ledgerline_operator;

-- The worker reads the books' frame, by which it finds the lane of an intent.
GRANT USAGE ON SCHEMA ledger TO ledgerline_worker;
GRANT SELECT ON ledger.tenant, ledger.unit, ledger.chart_pattern, ledger.intake, ledger.books_version TO ledgerline_worker;

-- The worker appends the events of handlers, and relays the outbox in place of the relay's process.
GRANT USAGE ON SCHEMA outbox TO ledgerline_worker;
GRANT EXECUTE ON FUNCTION outbox.append TO ledgerline_worker;
GRANT SELECT ON outbox.lane, outbox.event TO ledgerline_worker;
GRANT DELETE ON outbox.event TO ledgerline_worker;

GRANT USAGE ON SCHEMA calls TO ledgerline_worker, ledgerline_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON calls.call TO ledgerline_worker;
GRANT SELECT ON calls.call TO ledgerline_operator;

-- ---------------------------------------------------------------------------------------------------- schedules

-- Schedules: intents for later, or repeated (docs/SCHEDULES.md).
CREATE SCHEMA schedules;

CREATE TABLE schedules.schedule (
    tenant text NOT NULL,
    schedule_id uuid NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    state text NOT NULL CHECK (state IN ('active', 'paused', 'ended')),
    name text NOT NULL,
    -- The body of the intent, as POST /v1/intents takes it.
    intent jsonb NOT NULL,
    -- Local times in the zone.
    -- squawk-ignore prefer-timestamp-tz
    start timestamp NOT NULL,
    zone text NOT NULL,
    rrule text,
    missed text NOT NULL CHECK (missed IN ('post', 'skip', 'last')),
    -- squawk-ignore prefer-bigint-over-int
    retries integer NOT NULL,
    -- squawk-ignore prefer-bigint-over-int
    retry_pause_seconds integer NOT NULL,
    rule_time bigint NOT NULL,
    base bigint NOT NULL,
    -- The current occurrence: due later, in flight, or refused and waiting for its next attempt.
    number bigint NOT NULL,
    -- squawk-ignore prefer-timestamp-tz
    local timestamp,
    occurrence_time bigint,
    -- squawk-ignore prefer-bigint-over-int
    attempt integer NOT NULL,
    is_in_flight boolean NOT NULL,
    not_before bigint NOT NULL,
    skip_before bigint NOT NULL,
    created_time bigint NOT NULL,
    changed_time bigint NOT NULL,
    end_reason text,
    trouble text,
    -- When the clock must act, in microseconds since 1970.
    due_time bigint,
    -- SHA-256 of the request that made it: the same idempotency key with another body is refused.
    request_hash bytea NOT NULL,
    PRIMARY KEY (tenant, schedule_id)
);
CREATE INDEX schedule_due ON schedules.schedule (due_time) WHERE due_time IS NOT NULL;
CREATE INDEX schedule_created ON schedules.schedule (tenant, created_time DESC, schedule_id DESC);

CREATE TABLE schedules.occurrence (
    tenant text NOT NULL,
    schedule_id uuid NOT NULL,
    -- 1, 2, 3, in order.
    number bigint NOT NULL,
    -- The schedule's version that the row was last changed with.
    version bigint NOT NULL,
    -- squawk-ignore prefer-timestamp-tz
    local timestamp NOT NULL,
    occurrence_time bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('sent', 'posted', 'retrying', 'refused', 'skipped')),
    -- squawk-ignore prefer-bigint-over-int
    attempts integer NOT NULL,
    intent_id uuid,
    reason text,
    detail text,
    next_attempt_time bigint,
    changed_time bigint NOT NULL,
    PRIMARY KEY (tenant, schedule_id, number)
);

ALTER TABLE schedules.schedule ENABLE ROW LEVEL SECURITY;
ALTER TABLE schedules.occurrence ENABLE ROW LEVEL SECURITY;
-- The API names its tenant in each transaction; without a tenant it sees nothing.
CREATE POLICY of_tenant ON schedules.schedule TO ledgerline_api
USING (tenant = current_setting('ledgerline.tenant', true));
CREATE POLICY of_tenant ON schedules.occurrence TO ledgerline_api
USING (tenant = current_setting('ledgerline.tenant', true));
CREATE POLICY of_all ON schedules.schedule TO ledgerline_worker, ledgerline_operator USING (true);
CREATE POLICY of_all ON schedules.occurrence TO ledgerline_worker, ledgerline_operator USING (true);

GRANT USAGE ON SCHEMA schedules TO ledgerline_api, ledgerline_worker, ledgerline_operator;
GRANT SELECT, INSERT, UPDATE ON schedules.schedule TO ledgerline_api;
GRANT SELECT ON schedules.occurrence TO ledgerline_api;
GRANT SELECT, UPDATE ON schedules.schedule TO ledgerline_worker;
GRANT SELECT, INSERT, UPDATE ON schedules.occurrence TO ledgerline_worker;
GRANT SELECT ON schedules.schedule, schedules.occurrence TO ledgerline_operator;

GRANT USAGE ON SCHEMA webhooks TO ledgerline_api, ledgerline_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks.endpoint TO ledgerline_api;
GRANT SELECT, INSERT ON webhooks.message, webhooks.delivery TO ledgerline_api;
GRANT SELECT ON webhooks.attempt TO ledgerline_api;
GRANT SELECT, UPDATE ON webhooks.endpoint TO ledgerline_worker;
GRANT SELECT ON webhooks.endpoints_version TO ledgerline_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks.message, webhooks.delivery, webhooks.attempt TO ledgerline_worker;
