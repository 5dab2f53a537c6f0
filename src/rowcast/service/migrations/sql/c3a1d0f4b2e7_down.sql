-- Takes the tables of the service away, with their data.

-- name: idempotency
DROP TABLE idempotency;

-- name: query
DROP TABLE query;

-- name: request
DROP TABLE request;

-- name: session
DROP TABLE session;

-- name: request_status
DROP TYPE request_status;

-- name: number_request_function
DROP FUNCTION number_request();

-- name: check_request_status_function
DROP FUNCTION check_request_status();
