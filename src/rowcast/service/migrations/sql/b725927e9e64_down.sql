-- Takes the index away again, outside a transaction.

-- name: drop_index
DROP INDEX CONCURRENTLY IF EXISTS idx_request_session_updated;
