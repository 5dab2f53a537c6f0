-- The rights of the role that questions run as, and the right to act as it.

revoke all on schema demo from public, rowcast_questions;
revoke all on all tables in schema demo from public, rowcast_questions;
grant usage on schema demo to rowcast_questions;
grant select on all tables in schema demo to rowcast_questions;

-- Whoever installs the data will run the questions, and becomes a member in order to `set role`; a superuser may anyway.
do $$
begin
    if not pg_has_role(current_user, 'rowcast_questions',
                       case when current_setting('server_version_num')::integer >= 160000 then 'SET' else 'MEMBER' end) then
        grant rowcast_questions to current_user;
    end if;
end
$$;
