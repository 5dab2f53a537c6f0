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

-- name: drop_invalid_index
-- A concurrent build that was interrupted leaves an invalid index behind, which IF NOT EXISTS would accept.
DO $invalid$
DECLARE
    leftover regclass;
BEGIN
    SELECT indexrelid::regclass INTO leftover FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = '<<table>>'::regclass AND relname = 'rowcast_<<name>>_session_xid' AND NOT indisvalid;
    IF leftover IS NOT NULL THEN
        EXECUTE format('DROP INDEX %s', leftover);
    END IF;
END
$invalid$;
