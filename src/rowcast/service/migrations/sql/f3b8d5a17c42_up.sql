-- Who is offered streams, changed while servers run. One row, or none: then the settings of each server decide.

-- name: rollout
CREATE TABLE IF NOT EXISTS rollout (
    id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    streams boolean NOT NULL DEFAULT true,
    percent numeric(5, 2) CHECK (percent > 0 AND percent <= 100),
    salt text CHECK (octet_length(salt) BETWEEN 1 AND 64),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: streams_comment
COMMENT ON COLUMN rollout.streams IS 'false: no streams at all, those that are open end';

-- name: percent_comment
COMMENT ON COLUMN rollout.percent IS 'share of the users who are offered streams; NULL: as the settings say';
