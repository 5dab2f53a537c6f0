-- Sessions. Every statement names the owner, so that nobody reads or changes what is not theirs.

-- name: create
-- $1 owner · $2 name · $3 tags
INSERT INTO session (user_owner, name, tags) VALUES ($1, $2, $3)
RETURNING session_id, name, tags, created_at, updated_at, 0 AS request_count;

-- name: list
-- Newest first, after the session that the last page ended with.
-- $1 owner · $2 limit · $3 created_at of that session, or NULL · $4 its id
SELECT s.session_id, s.name, s.tags, s.created_at, s.updated_at,
    (SELECT count(*) FROM request r WHERE r.session_id = s.session_id) AS request_count
FROM session s
WHERE s.user_owner = $1 AND ($3::timestamptz IS NULL OR (s.created_at, s.session_id) < ($3, $4::uuid))
ORDER BY s.created_at DESC, s.session_id DESC
LIMIT $2;

-- name: get
-- $1 owner · $2 session id
SELECT s.session_id, s.name, s.tags, s.created_at, s.updated_at,
    (SELECT count(*) FROM request r WHERE r.session_id = s.session_id) AS request_count
FROM session s WHERE s.user_owner = $1 AND s.session_id = $2;

-- name: change
-- $1 owner · $2 session id · $3 name or NULL · $4 tags or NULL
UPDATE session SET name = coalesce($3, name), tags = coalesce($4, tags), updated_at = clock_timestamp()
WHERE user_owner = $1 AND session_id = $2
RETURNING session_id;

-- name: delete
-- $1 owner · $2 session id
DELETE FROM session WHERE user_owner = $1 AND session_id = $2 RETURNING session_id;

-- name: owned
-- $1 owner · $2 session id
SELECT true FROM session WHERE user_owner = $1 AND session_id = $2;

-- name: running_jobs
-- The jobs of a session that may still have to be stopped.
-- $1 session id
SELECT job_id FROM request WHERE session_id = $1 AND status IN ('pending', 'in_progress') AND job_id IS NOT NULL;
