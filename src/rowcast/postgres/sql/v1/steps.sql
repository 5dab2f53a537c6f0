-- What the steps of an installation begin with.

-- name: lock
-- Take the table's lock without making writers queue behind us for long: ask for 0.2 s, let them pass, ask again.
DO $lock$
BEGIN
    PERFORM set_config('lock_timeout', '200ms', true);
    FOR attempt IN 1..300 LOOP
        BEGIN
            LOCK TABLE <<table>> IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05 + random() * 0.2);
        END;
    END LOOP;
    RAISE 'rowcast: <<name>> was busy for a minute; try again when no long transaction holds it'
        USING ERRCODE = 'lock_not_available';
END
$lock$;

-- name: lock_to_leave
-- The same, and with the last watch all that is dropped with it, in one go: readers that hold one of these locks and
-- wait for another cannot stand in the way then.
DO $lock$
DECLARE
    wanted text := '<<table>>';
BEGIN
    IF to_regclass('rowcast.watch') IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM rowcast.watch WHERE name <> '<<name>>') THEN
            wanted := 'rowcast.watch, rowcast.tombstone, rowcast.epoch, ' || wanted;
        END IF;
    END IF;
    PERFORM set_config('lock_timeout', '200ms', true);
    FOR attempt IN 1..300 LOOP
        BEGIN
            EXECUTE 'LOCK TABLE ' || wanted || ' IN ACCESS EXCLUSIVE MODE';
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05 + random() * 0.2);
        END;
    END LOOP;
    RAISE 'rowcast: <<name>> was busy for a minute; try again when no long transaction holds it'
        USING ERRCODE = 'lock_not_available';
END
$lock$;

-- name: drop_invalid_index
-- A concurrent build that was interrupted leaves an invalid index behind, which IF NOT EXISTS would accept. It may
-- also be still under way, without the program that began it.
DO $invalid$
DECLARE
    leftover regclass;
BEGIN
    PERFORM set_config('lock_timeout', '200ms', true);
    FOR attempt IN 1..300 LOOP
        SELECT indexrelid::regclass INTO leftover FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = '<<table>>'::regclass AND relname = 'rowcast_<<name>>_session_xid' AND NOT indisvalid;
        IF leftover IS NULL THEN
            RETURN;
        END IF;
        BEGIN
            EXECUTE format('DROP INDEX %s', leftover);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05 + random() * 0.2);
        END;
    END LOOP;
    RAISE 'rowcast: <<name>> was busy for a minute; try again when no long transaction holds it'
        USING ERRCODE = 'lock_not_available';
END
$invalid$;
