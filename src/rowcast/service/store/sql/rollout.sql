-- Who is offered streams, as operators change it while servers run.

-- name: get
SELECT streams, percent::float8 AS percent, salt, round(extract(epoch FROM changed_at)::numeric, 3)::float8 AS changed_at
FROM rollout;

-- name: set
-- What is NULL stays as it was.
-- $1 streams · $2 percent · $3 salt
INSERT INTO rollout (streams, percent, salt) VALUES ($1, $2::float8::numeric, $3)
ON CONFLICT (id) DO UPDATE SET streams = excluded.streams, percent = coalesce(excluded.percent, rollout.percent),
    salt = coalesce(excluded.salt, rollout.salt), changed_at = clock_timestamp();

-- name: reset
DELETE FROM rollout;
