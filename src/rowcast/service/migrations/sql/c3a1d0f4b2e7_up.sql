-- The tables of the service, and the law of what a request's status may become.

-- name: patience
SELECT set_config('lock_timeout', '2s', true);

-- name: session
CREATE TABLE session (
    session_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_owner text NOT NULL CHECK (user_owner <> ''),
    name text NOT NULL DEFAULT '' CHECK (length(name) <= 200),
    tags text[] NOT NULL DEFAULT '{}' CHECK (cardinality(tags) <= 20),
    last_sequence_number integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: session_owner_created
CREATE INDEX session_owner_created ON session (user_owner, created_at DESC, session_id);

-- name: request_status
CREATE TYPE request_status AS ENUM ('pending', 'in_progress', 'done', 'error');

-- name: request
CREATE TABLE request (
    request_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid NOT NULL REFERENCES session ON DELETE CASCADE,
    sequence_number integer NOT NULL,
    request text NOT NULL,
    handler text NOT NULL DEFAULT 'questions',
    status request_status NOT NULL DEFAULT 'pending',
    response text,
    error text,
    rating smallint CHECK (rating BETWEEN -1 AND 5),
    review text CHECK (length(review) <= 4000),
    job_id bigint,
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (session_id, sequence_number)
);

-- name: request_lease
-- The leases that may have run out: a handful of rows, looked at every few seconds.
CREATE INDEX request_lease ON request (lease_until) WHERE status = 'in_progress' AND lease_until IS NOT NULL;

-- name: query
CREATE TABLE query (
    query_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    request_id uuid NOT NULL REFERENCES request ON DELETE CASCADE,
    sql text NOT NULL,
    columns jsonb NOT NULL DEFAULT '[]',
    row_count integer,
    summary text NOT NULL DEFAULT '',
    duration_ms integer NOT NULL DEFAULT 0,
    error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: query_request
CREATE INDEX query_request ON query (request_id, created_at);

-- name: idempotency
-- What a caller has already asked for under a key of its own choosing; kept for a day.
CREATE TABLE idempotency (
    user_owner text NOT NULL,
    key text NOT NULL,
    body_digest text NOT NULL,
    request_id uuid NOT NULL REFERENCES request ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_owner, key)
);

-- name: idempotency_created
CREATE INDEX idempotency_created ON idempotency (created_at);

-- name: idempotency_request
CREATE INDEX idempotency_request ON idempotency (request_id);

-- name: number_request_function
-- Numbers a session's requests 1, 2, 3 under the lock of the session's row, whoever inserts.
CREATE FUNCTION number_request() RETURNS trigger
LANGUAGE plpgsql AS $function$
BEGIN
    UPDATE session
    SET last_sequence_number = CASE WHEN NEW.sequence_number IS NULL THEN last_sequence_number + 1
        ELSE greatest(last_sequence_number, NEW.sequence_number) END
    WHERE session_id = NEW.session_id
    RETURNING coalesce(NEW.sequence_number, last_sequence_number) INTO NEW.sequence_number;
    IF NOT FOUND THEN
        RAISE 'session % does not exist', NEW.session_id USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NEW;
END
$function$;

-- name: number_request_trigger
CREATE TRIGGER number_request BEFORE INSERT ON request FOR EACH ROW EXECUTE FUNCTION number_request();

-- name: check_request_status_function
-- The law of the status; `rowcast.service.store.law` holds the same as a table for Python.
CREATE FUNCTION check_request_status() RETURNS trigger
LANGUAGE plpgsql AS $function$
BEGIN
    IF (OLD.status, NEW.status) IN (('pending', 'in_progress'), ('in_progress', 'done'), ('in_progress', 'error')) THEN
        RETURN NEW;
    END IF;
    IF OLD.status IN ('done', 'error') AND NEW.status = 'pending' AND current_setting('rowcast.retry', true) = 'on' THEN
        RETURN NEW;
    END IF;
    RAISE 'a request cannot go from % to %', OLD.status, NEW.status USING
        ERRCODE = 'RC001',
        HINT = CASE WHEN OLD.status IN ('done', 'error')
            THEN 'It has ended. To run it again, SET LOCAL rowcast.retry = ''on'' and set it to pending.'
            ELSE 'The order is pending, in_progress, then done or error.' END;
END
$function$;

-- name: check_request_status_trigger
CREATE TRIGGER check_request_status BEFORE UPDATE ON request FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION check_request_status();
