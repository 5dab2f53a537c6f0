-- Requests, for their owner and for the worker. `rowcast_version` is named, so that PostgreSQL says when it is missing.

-- name: lock_session
-- Take the session's row for the length of the transaction, so that its requests are counted and numbered one by one.
-- $1 owner · $2 session id
SELECT last_sequence_number FROM session WHERE user_owner = $1 AND session_id = $2 FOR UPDATE;

-- name: count
-- $1 session id
SELECT count(*) FROM request WHERE session_id = $1;

-- name: create
-- $1 session id · $2 text · $3 handler
INSERT INTO request (session_id, request, handler) VALUES ($1, $2, $3) RETURNING request_id;

-- name: set_job
-- $1 request id · $2 job id
UPDATE request SET job_id = $2 WHERE request_id = $1;

-- name: by_number
-- $1 owner · $2 session id · $3 sequence number
SELECT r.*, r.rowcast_version, round(extract(epoch FROM r.updated_at)::numeric, 3)::float8 AS updated_epoch,
    round(extract(epoch FROM r.created_at)::numeric, 3)::float8 AS created_epoch,
    ARRAY(SELECT q.query_id FROM query q WHERE q.request_id = r.request_id ORDER BY q.created_at, q.query_id) AS query_ids
FROM request r JOIN session s USING (session_id)
WHERE s.user_owner = $1 AND r.session_id = $2 AND r.sequence_number = $3;

-- name: by_id
-- $1 owner · $2 request id
SELECT r.*, r.rowcast_version, round(extract(epoch FROM r.updated_at)::numeric, 3)::float8 AS updated_epoch,
    round(extract(epoch FROM r.created_at)::numeric, 3)::float8 AS created_epoch,
    ARRAY(SELECT q.query_id FROM query q WHERE q.request_id = r.request_id ORDER BY q.created_at, q.query_id) AS query_ids
FROM request r JOIN session s USING (session_id)
WHERE s.user_owner = $1 AND r.request_id = $2;

-- name: lock
-- $1 owner · $2 request id
SELECT r.status, r.session_id, r.sequence_number, r.handler, r.job_id FROM request r JOIN session s USING (session_id)
WHERE s.user_owner = $1 AND r.request_id = $2 FOR UPDATE OF r;

-- name: review
-- $1 request id · $2 set the rating? · $3 rating · $4 set the review? · $5 review
UPDATE request SET rating = CASE WHEN $2 THEN $3 ELSE rating END, review = CASE WHEN $4 THEN $5 ELSE review END
WHERE request_id = $1;

-- name: allow_retry
SELECT set_config('rowcast.retry', 'on', true);

-- name: forbid_retry
SELECT set_config('rowcast.retry', 'off', true);

-- name: retry
-- $1 request id
UPDATE request SET status = 'pending', response = NULL, error = NULL, lease_until = NULL WHERE request_id = $1;

-- name: forget_queries
-- $1 request id
DELETE FROM query WHERE request_id = $1;

-- name: delete
-- $1 owner · $2 request id
DELETE FROM request r USING session s
WHERE s.session_id = r.session_id AND s.user_owner = $1 AND r.request_id = $2
RETURNING r.job_id, r.status;

-- name: remember_key
-- $1 owner · $2 key · $3 digest of the body · $4 request id
INSERT INTO idempotency (user_owner, key, body_digest, request_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_owner, key) DO UPDATE
    SET body_digest = excluded.body_digest, request_id = excluded.request_id, created_at = clock_timestamp();

-- name: recall_key
-- $1 owner · $2 key
SELECT body_digest, request_id FROM idempotency
WHERE user_owner = $1 AND key = $2 AND created_at > clock_timestamp() - interval '24 hours';

-- name: lock_key
-- Two calls with the same key wait for each other.
-- $1 owner · $2 key
SELECT pg_advisory_xact_lock(hashtextextended($1 || chr(31) || $2, 7));

-- name: forget_old_keys
DELETE FROM idempotency WHERE created_at < clock_timestamp() - interval '24 hours';

-- name: claim
-- Begin a request. The job that did holds it from then on: one that was retried meanwhile has another job.
-- $1 request id · $2 job id · $3 lease in seconds
UPDATE request SET status = 'in_progress', job_id = $2, lease_until = clock_timestamp() + make_interval(secs => $3)
WHERE request_id = $1 AND status = 'pending' AND (job_id IS NULL OR job_id = $2)
RETURNING request_id, session_id, request, handler;

-- name: renew
-- $1 job ids · $2 their requests · $3 lease in seconds
UPDATE request r SET lease_until = clock_timestamp() + make_interval(secs => $3)
FROM unnest($1::bigint[], $2::uuid[]) AS held (job_id, request_id)
WHERE r.request_id = held.request_id AND r.job_id = held.job_id AND r.status = 'in_progress'
RETURNING r.job_id;

-- name: finish
-- $1 request id · $2 job id · $3 status · $4 response · $5 error
UPDATE request SET status = $3::text::request_status, response = $4, error = $5, lease_until = NULL
WHERE request_id = $1 AND job_id = $2 AND status = 'in_progress'
RETURNING request_id;

-- name: record_query
-- $1 request id · $2 sql · $3 columns, json · $4 row count · $5 summary · $6 duration in ms · $7 error
INSERT INTO query (request_id, sql, columns, row_count, summary, duration_ms, error) VALUES ($1, $2, $3::text::jsonb, $4, $5, $6, $7);

-- name: end_lost
-- End what a worker began and no longer vouches for. Skips what another process ends at the same moment. While the
-- database was down nobody could vouch, so after its start every worker has the time of one lease to come back.
-- $1 text for the user · $2 lease in seconds
UPDATE request SET status = 'error', error = $1, lease_until = NULL
WHERE request_id IN (
    SELECT request_id FROM request
    WHERE status = 'in_progress' AND lease_until < clock_timestamp()
        AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => $2)
    ORDER BY lease_until LIMIT 100 FOR UPDATE SKIP LOCKED)
RETURNING request_id;
