"""Everything in a database's schema, from the system catalogs, as lines that can be compared."""

from typing import Final

from psycopg import Connection

# Each query returns one text column. Schema public is left out, because it holds the list of migrations.
OURS: Final = "nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')"

QUERIES: Final = {
    "schemas": "SELECT format('%s %s', nspname, nspacl) FROM pg_namespace WHERE OURS",
    "relations": """
        SELECT format('%s.%s %s %s %s %s', nspname, relname, relkind, relpersistence, reloptions, relacl)
        FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace WHERE OURS
    """,
    "columns": """
        SELECT format(
            '%s.%s %s %s %s null:%s default:%s identity:%s generated:%s storage:%s collation:%s rights:%s',
            nspname, relname, attnum, attname, format_type(atttypid, atttypmod), NOT attnotnull,
            pg_get_expr(adbin, adrelid), attidentity, attgenerated, attstorage, attcollation::regcollation, attacl
        )
        FROM pg_attribute
        JOIN pg_class AS c ON c.oid = attrelid
        JOIN pg_namespace AS n ON n.oid = relnamespace
        LEFT JOIN pg_attrdef AS d ON d.adrelid = attrelid AND d.adnum = attnum
        WHERE OURS AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'v', 'm', 'p')
    """,
    "constraints": """
        SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(k.oid))
        FROM pg_constraint AS k JOIN pg_namespace AS n ON n.oid = connamespace WHERE OURS
    """,
    "indexes": """
        SELECT pg_get_indexdef(indexrelid)
        FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid JOIN pg_namespace AS n ON n.oid = relnamespace
        WHERE OURS
    """,
    "triggers": """
        SELECT format('%s enabled:%s', pg_get_triggerdef(t.oid), tgenabled)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = tgrelid JOIN pg_namespace AS n ON n.oid = relnamespace
        WHERE OURS AND NOT tgisinternal
    """,
    "functions": """
        SELECT format('%s %s', pg_get_functiondef(p.oid), proacl)
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace WHERE OURS AND prokind IN ('f', 'p')
    """,
    "comments": """
        SELECT format('%s %s', pg_describe_object(classoid, objoid, objsubid), description)
        FROM pg_description JOIN pg_class AS c ON c.oid = objoid JOIN pg_namespace AS n ON n.oid = relnamespace
        WHERE OURS
    """,
    "rows": """
        SELECT format('books_version %s', version) FROM ledger.books_version
        UNION ALL SELECT format('publication %s', next_checkpoint) FROM audit.publication
        UNION ALL SELECT format('intake %s %s', closed_because, lanes) FROM ledger.intake
    """,
}


def catalog(connection: Connection[tuple[str]]) -> dict[str, list[str]]:
    """Return everything about the schema of this database, by kind, sorted."""
    found = {}
    for kind, query in QUERIES.items():
        rows = connection.execute(query.replace("OURS", OURS).encode()).fetchall()
        found[kind] = sorted(row[0] for row in rows)
    return found
