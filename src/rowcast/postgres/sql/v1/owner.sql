-- Tells who watches a session that it changed hands or is gone, so that open streams learn of it at once. The table is
-- the one that says whose a session is. Running it again changes nothing.

-- name: lock
-- CREATE TRIGGER would have writers queue behind it: ask for 0.2 s, let them pass, ask again.
DO $lock$
BEGIN
    PERFORM set_config('lock_timeout', '200ms', true);
    FOR attempt IN 1..300 LOOP
        BEGIN
            LOCK TABLE <<sessions>> IN SHARE ROW EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05 + random() * 0.2);
        END;
    END LOOP;
    RAISE 'rowcast: <<sessions_name>> was busy for a minute; try again when no long transaction holds it'
        USING ERRCODE = 'lock_not_available';
END
$lock$;

-- name: function
-- Identifiers only; no session means all of them. A session's id that is too long to be watched is nobody's news.
CREATE OR REPLACE FUNCTION "notify_<<name>>_owner_change"() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('<<owner_channel>>', json_build_object('closed', true)::text);
    ELSIF octet_length(OLD.<<session>>::text) <= 64 THEN
        PERFORM pg_notify('<<owner_channel>>', json_build_object(
            '<<session_name>>', OLD.<<session>>::text, 'closed', TG_OP = 'DELETE')::text);
    END IF;
    RETURN NULL;
END
$function$;

-- name: triggers
-- That a session is gone is told last, when its transaction commits: after the rows that went with it.
DO $triggers$
BEGIN
    DROP TRIGGER IF EXISTS "<<name>>_owner_trigger" ON <<sessions>>;
    CREATE TRIGGER "<<name>>_owner_trigger" AFTER UPDATE ON <<sessions>> FOR EACH ROW
        WHEN ((OLD.<<session>>, OLD.<<owner>>) IS DISTINCT FROM (NEW.<<session>>, NEW.<<owner>>))
        EXECUTE FUNCTION "notify_<<name>>_owner_change"();
    DROP TRIGGER IF EXISTS "<<name>>_owner_trigger_delete" ON <<sessions>>;
    CREATE CONSTRAINT TRIGGER "<<name>>_owner_trigger_delete" AFTER DELETE ON <<sessions>>
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        EXECUTE FUNCTION "notify_<<name>>_owner_change"();
    DROP TRIGGER IF EXISTS "<<name>>_owner_trigger_truncate" ON <<sessions>>;
    CREATE TRIGGER "<<name>>_owner_trigger_truncate" AFTER TRUNCATE ON <<sessions>> FOR EACH STATEMENT
        EXECUTE FUNCTION "notify_<<name>>_owner_change"();
    ALTER TABLE <<sessions>>
        ENABLE ALWAYS TRIGGER "<<name>>_owner_trigger",
        ENABLE ALWAYS TRIGGER "<<name>>_owner_trigger_delete",
        ENABLE ALWAYS TRIGGER "<<name>>_owner_trigger_truncate";
END
$triggers$;

-- name: remove
DO $remove$
BEGIN
    DROP TRIGGER IF EXISTS "<<name>>_owner_trigger" ON <<sessions>>;
    DROP TRIGGER IF EXISTS "<<name>>_owner_trigger_delete" ON <<sessions>>;
    DROP TRIGGER IF EXISTS "<<name>>_owner_trigger_truncate" ON <<sessions>>;
    DROP FUNCTION IF EXISTS "notify_<<name>>_owner_change"();
END
$remove$;
