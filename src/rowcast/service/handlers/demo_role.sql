-- The role that questions run as: it may read the demo data, and nothing else.

-- Roles belong to the whole cluster, so another database may create it at the same moment. Then this fails
-- when the other commits, and install_demo_data() begins anew.
do $$
begin
    if not exists (select from pg_roles where rolname = 'rowcast_questions') then
        create role rowcast_questions nologin noinherit;
    end if;
end
$$;
