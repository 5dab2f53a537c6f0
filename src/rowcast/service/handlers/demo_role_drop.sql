-- Drops the role of the questions, unless another database grants it something or it is not ours to drop.
do $$
begin
    drop role if exists rowcast_questions;
exception
    when dependent_objects_still_exist or insufficient_privilege then null;
end
$$;
