"""The only place with SQL and psycopg: schema, migrations, named queries, connections."""
