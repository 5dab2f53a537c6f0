-- Metadata of the queries that requests ran.

-- name: get
-- $1 owner · $2 query id
SELECT q.query_id, q.request_id, q.sql, q.columns::text AS columns, q.row_count, q.summary, q.duration_ms, q.error,
    round(extract(epoch FROM q.created_at)::numeric, 3)::float8 AS created_at
FROM query q JOIN request r USING (request_id) JOIN session s USING (session_id)
WHERE s.user_owner = $1 AND q.query_id = $2;
