-- What there is of the demo data and its role, in one row.
select schema.oid is not null as schema_exists,
       obj_description(schema.oid, 'pg_namespace') as marker,
       (select count(*) from pg_class where relnamespace = schema.oid and relkind = 'r' and relname in
           ('region', 'customer', 'product', 'orders', 'order_line', 'delivery'))::integer as tables,
       coalesce(
           has_schema_privilege(role.oid, schema.oid, 'USAGE')
           and (select bool_and(has_table_privilege(role.oid, oid, 'SELECT'))
                from pg_class where relnamespace = schema.oid and relkind = 'r'),
           false) as role_may_read,
       coalesce(
           pg_has_role(current_user, role.oid,
                       case when current_setting('server_version_num')::integer >= 160000 then 'SET' else 'MEMBER' end),
           false) as role_may_be_set,
       coalesce(
           rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls or rolcanlogin
           or exists (select from pg_auth_members where member = role.oid),
           false) as role_may_too_much
from (values (true)) as one (row)
left join pg_namespace as schema on schema.nspname = 'demo'
left join pg_roles as role on role.rolname = 'rowcast_questions';
