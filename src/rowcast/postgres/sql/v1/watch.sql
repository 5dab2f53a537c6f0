-- What one watch adds to its table. Running it again changes nothing.

-- name: check
-- Refuse what could not be watched faithfully, before anything is changed.
DO $check$
DECLARE
    wanted record;
    actual record;
BEGIN
    -- Two watches would share the stamp columns of a table, or the memory of a name.
    FOR actual IN
        SELECT tgrelid::regclass AS relation, substring(tgname from '^~rowcast_(.*)_1_keep$') AS name FROM pg_trigger
        WHERE tgname ~ '^~rowcast_.*_1_keep$' AND tgparentid = 0
            AND (tgrelid = '<<table>>'::regclass) <> (tgname = '~rowcast_<<name>>_1_keep')
    LOOP
        RAISE 'rowcast: table % is watched as "%" already; % cannot be watched as "<<name>>" as well',
            actual.relation, actual.name, '<<table>>'
            USING ERRCODE = 'duplicate_object', HINT = 'Uninstall that watch first, or give this one another name.';
    END LOOP;
    FOR wanted IN SELECT * FROM (VALUES <<wanted_columns>>) AS v (name, role) LOOP
        SELECT format_type(a.atttypid, NULL) AS type, t.typtype, a.attgenerated INTO actual
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = '<<table>>'::regclass AND a.attname = wanted.name AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RAISE 'rowcast: table % has no column "%"; add it, or correct the watch', '<<table>>', wanted.name
                USING ERRCODE = 'undefined_column';
        ELSIF actual.attgenerated <> '' THEN
            RAISE 'rowcast: column "%" is generated; watch the columns it is computed from', wanted.name
                USING ERRCODE = 'feature_not_supported';
        ELSIF wanted.role IN ('uuid', 'integer', 'bigint') AND actual.type <> wanted.role
            OR wanted.role = 'text' AND actual.type NOT IN ('text', 'character varying') THEN
            RAISE 'rowcast: column "%" is %, but the watch says %; uuid, integer, bigint and text will do if both agree',
                wanted.name, actual.type, wanted.role
                USING ERRCODE = 'datatype_mismatch';
        ELSIF wanted.role = 'instant' AND actual.type <> 'timestamp with time zone' THEN
            RAISE 'rowcast: column "%" is %; an instant needs timestamp with time zone', wanted.name, actual.type
                USING ERRCODE = 'datatype_mismatch';
        ELSIF wanted.role = 'carried' AND actual.typtype <> 'e'
            AND actual.type NOT IN ('boolean', 'smallint', 'integer', 'bigint', 'uuid') THEN
            RAISE 'rowcast: column "%" is %; only integers, booleans, uuids and enums are carried', wanted.name, actual.type
                USING ERRCODE = 'feature_not_supported';
        END IF;
        BEGIN  -- DISTINCT needs what IS DISTINCT FROM needs, and looks into arrays, domains and rows for it
            EXECUTE format('SELECT DISTINCT %I FROM <<table>> LIMIT 0', wanted.name);
        EXCEPTION WHEN undefined_function THEN
            RAISE 'rowcast: column "%" is %, whose values cannot be compared; use jsonb or text', wanted.name, actual.type
                USING ERRCODE = 'feature_not_supported';
        END;
    END LOOP;
END
$check$;

-- name: columns
-- Constant defaults: adding them rewrites nothing.
ALTER TABLE <<table>>
    ADD COLUMN IF NOT EXISTS rowcast_version bigint NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS rowcast_xid xid8 NOT NULL DEFAULT '0';

-- name: index
CREATE INDEX <<concurrently>> IF NOT EXISTS "rowcast_<<name>>_session_xid" ON <<table>> (<<session>>, rowcast_xid);

-- name: register
INSERT INTO rowcast.watch (name, version) VALUES ('<<name>>', 1)
ON CONFLICT (name) DO UPDATE SET version = excluded.version;

-- name: stamp_function
-- Version and transaction of a row's newest state. Updates count from the stored version, under the row's own lock.
-- An insert begins at the clock in microseconds (it fits a JavaScript number until the year 2255), but above whatever
-- the key had before: its tombstone, or the version it brings along when it moves to another partition. The move
-- leaves a tombstone one above the version it brings, hence two.
CREATE OR REPLACE FUNCTION rowcast.stamp_<<name>>() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.rowcast_version := greatest(
            CASE WHEN NEW.rowcast_version BETWEEN 2 AND 9007199254740000 THEN NEW.rowcast_version + 2 END,
            (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
            (SELECT max(version) + 1 FROM rowcast.tombstone WHERE watch = '<<name>>' AND key = NEW.<<key>>::text));
    ELSIF NEW.<<key>> IS DISTINCT FROM OLD.<<key>> THEN
        NEW.rowcast_version := greatest(
            OLD.rowcast_version + 1,
            (SELECT max(version) + 1 FROM rowcast.tombstone WHERE watch = '<<name>>' AND key = NEW.<<key>>::text));
    ELSE
        NEW.rowcast_version := OLD.rowcast_version + 1;
    END IF;
    NEW.rowcast_xid := pg_current_xact_id();
    <<touch>>
    RETURN NEW;
END
$function$;

-- name: notify_function
-- Tell the channel what the row is now. Identifiers, an enum, numbers and booleans only: any role may LISTEN, and a
-- payload over 8,000 bytes would roll the writer's transaction back. `horizon`: every transaction below it had ended,
-- and so had queued its own notification, before this one was queued.
CREATE OR REPLACE FUNCTION "<<function>>"() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    horizon CONSTANT text := pg_snapshot_xmin(pg_current_snapshot())::text;
    payload text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM rowcast.rotate_epoch('<<name>>');
        PERFORM pg_notify('<<channel>>', json_build_object('truncated', true, 'horizon', horizon)::text);
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE'
        AND (OLD.<<key>>, OLD.<<session>>) IS DISTINCT FROM (NEW.<<key>>, NEW.<<session>>) THEN
        IF octet_length(OLD.<<session>>::text) <= 64 AND octet_length(OLD.<<key>>::text) <= 64 THEN
            INSERT INTO rowcast.tombstone AS known (watch, key, session_id, version, xid)
            VALUES ('<<name>>', OLD.<<key>>::text, OLD.<<session>>::text, OLD.rowcast_version + 1, pg_current_xact_id())
            ON CONFLICT (watch, key, session_id) DO UPDATE
                SET version = greatest(known.version, excluded.version), xid = excluded.xid, deleted_at = excluded.deleted_at;
            PERFORM pg_notify('<<channel>>', json_build_object(
                '<<key_name>>', OLD.<<key>>::text, '<<session_name>>', OLD.<<session>>::text,
                'version', OLD.rowcast_version + 1, 'removed', true, 'horizon', horizon)::text);
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        IF octet_length(NEW.<<session>>::text) <= 64 AND octet_length(NEW.<<key>>::text) <= 64 THEN
            payload := json_build_object(<<document>>, 'horizon', horizon)::text;
            IF octet_length(payload) > 1000 THEN
                payload := json_build_object('reread', true, '<<session_name>>', NEW.<<session>>::text, 'horizon', horizon)::text;
            END IF;
            PERFORM pg_notify('<<channel>>', payload);
        END IF;
    END IF;
    RETURN NULL;
END
$function$;

-- name: triggers
-- One transaction, one short lock. BEFORE triggers fire by name: "~" comes last, so that a trigger of the table's
-- owner cannot change a watched column behind ours. ALWAYS, so that a replication role does not bypass them.
DO $triggers$
BEGIN
    DROP TRIGGER IF EXISTS "~rowcast_<<name>>_1_keep" ON <<table>>;
    CREATE TRIGGER "~rowcast_<<name>>_1_keep" BEFORE UPDATE ON <<table>> FOR EACH ROW
        WHEN (OLD.rowcast_version IS DISTINCT FROM NEW.rowcast_version OR OLD.rowcast_xid IS DISTINCT FROM NEW.rowcast_xid)
        EXECUTE FUNCTION rowcast.keep_stamp();
    DROP TRIGGER IF EXISTS "~rowcast_<<name>>_2_stamp" ON <<table>>;
    CREATE TRIGGER "~rowcast_<<name>>_2_stamp" BEFORE UPDATE ON <<table>> FOR EACH ROW
        WHEN (<<changed>>)
        EXECUTE FUNCTION rowcast.stamp_<<name>>();
    <<stamp_wide>>
    DROP TRIGGER IF EXISTS "~rowcast_<<name>>_4_stamp_insert" ON <<table>>;
    CREATE TRIGGER "~rowcast_<<name>>_4_stamp_insert" BEFORE INSERT ON <<table>> FOR EACH ROW
        EXECUTE FUNCTION rowcast.stamp_<<name>>();

    DROP TRIGGER IF EXISTS "<<trigger>>" ON <<table>>;
    CREATE TRIGGER "<<trigger>>" AFTER UPDATE ON <<table>> FOR EACH ROW
        WHEN (OLD.rowcast_version IS DISTINCT FROM NEW.rowcast_version)
        EXECUTE FUNCTION "<<function>>"();
    DROP TRIGGER IF EXISTS "<<trigger>>_insert" ON <<table>>;
    CREATE TRIGGER "<<trigger>>_insert" AFTER INSERT ON <<table>> FOR EACH ROW
        EXECUTE FUNCTION "<<function>>"();
    DROP TRIGGER IF EXISTS "<<trigger>>_delete" ON <<table>>;
    CREATE TRIGGER "<<trigger>>_delete" AFTER DELETE ON <<table>> FOR EACH ROW
        EXECUTE FUNCTION "<<function>>"();
    DROP TRIGGER IF EXISTS "<<trigger>>_truncate" ON <<table>>;
    CREATE TRIGGER "<<trigger>>_truncate" AFTER TRUNCATE ON <<table>> FOR EACH STATEMENT
        EXECUTE FUNCTION "<<function>>"();

    ALTER TABLE <<table>>
        ENABLE ALWAYS TRIGGER "~rowcast_<<name>>_1_keep",
        ENABLE ALWAYS TRIGGER "~rowcast_<<name>>_2_stamp",
        <<always_wide>>
        ENABLE ALWAYS TRIGGER "~rowcast_<<name>>_4_stamp_insert",
        ENABLE ALWAYS TRIGGER "<<trigger>>",
        ENABLE ALWAYS TRIGGER "<<trigger>>_insert",
        ENABLE ALWAYS TRIGGER "<<trigger>>_delete",
        ENABLE ALWAYS TRIGGER "<<trigger>>_truncate";
END
$triggers$;

-- name: epoch
-- What was known under other triggers is known no more.
SELECT rowcast.rotate_epoch('<<name>>');
