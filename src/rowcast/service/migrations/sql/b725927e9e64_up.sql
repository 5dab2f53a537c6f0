-- The index that listings by time use. Each statement runs outside a transaction.

-- name: drop_invalid_index
-- A concurrent build that was interrupted leaves an invalid index behind, which IF NOT EXISTS would accept.
DO $invalid$
BEGIN
    IF EXISTS (
        SELECT FROM pg_index WHERE indexrelid = to_regclass('idx_request_session_updated') AND NOT indisvalid
    ) THEN
        DROP INDEX idx_request_session_updated;
    END IF;
END
$invalid$;

-- name: create_index
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_request_session_updated ON request (session_id, updated_at);
