-- Logins, one for each service.

-- name: excess
-- The reason why a login must not be used for a service, or null: it is a member of a role other than the service's, or
-- it has rights that no service needs.
SELECT coalesce(
    (
        SELECT 'a member of ' || r.rolname
        FROM pg_catalog.pg_auth_members AS m JOIN pg_catalog.pg_roles AS r ON r.oid = m.roleid
        WHERE m.member = u.oid AND r.rolname <> %(role)s
        ORDER BY r.rolname LIMIT 1
    ),
    CASE WHEN u.rolsuper OR u.rolcreaterole OR u.rolbypassrls THEN 'allowed more than a service needs' END
) AS excess
FROM pg_catalog.pg_roles AS u WHERE u.rolname = %(user)s

-- name: statements
-- The statements that create a login or change its password, and make it a member of its role.
SELECT unnest(ARRAY[
    format(
        '%%s ROLE %%I LOGIN PASSWORD %%L',
        CASE WHEN to_regrole(quote_ident(%(user)s::text)) IS NULL THEN 'CREATE' ELSE 'ALTER' END,
        %(user)s::text, %(verifier)s::text
    ),
    format('GRANT %%I TO %%I', %(role)s::text, %(user)s::text)
]) AS statement
