-- The index that listings by time use. Each statement runs outside a transaction.

-- name: drop_invalid_index
-- A concurrent build that was interrupted leaves an invalid index behind, which IF NOT EXISTS would accept. It may
-- also be still under way, without the program that began it. Writers never queue behind us for more than 0.2 s.
DO $invalid$
BEGIN
    PERFORM set_config('lock_timeout', '200ms', true);
    FOR attempt IN 1..300 LOOP
        IF NOT EXISTS (
            SELECT FROM pg_index WHERE indexrelid = to_regclass('idx_request_session_updated') AND NOT indisvalid
        ) THEN
            RETURN;
        END IF;
        BEGIN
            DROP INDEX idx_request_session_updated;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05 + random() * 0.2);
        END;
    END LOOP;
    RAISE 'the table request was busy for a minute; try again when no long transaction holds it'
        USING ERRCODE = 'lock_not_available';
END
$invalid$;

-- name: create_index
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_request_session_updated ON request (session_id, updated_at);
