-- The hot queries. Rows and the next cursor come from one statement: `place` is the snapshot that the rows were read
-- in. kind 'place' is its one row; 'row' and 'gone' are row states, with the transaction that made them.

-- name: changes
-- Everything of some sessions that changed since a horizon: a superset of what was missed, to be reduced by version.
-- The upper bound keeps out transaction ids that a restore brought along.
-- $1 session ids, text[] · $2 horizon, text
WITH place AS MATERIALIZED (
    SELECT pg_snapshot_xmin(s) AS horizon, pg_snapshot_xmax(s) AS ceiling, pg_is_in_recovery() AS standby,
        <<epoch>> AS epoch, <<stamped>> AS stamped,
        (SELECT floor FROM rowcast.watch WHERE name = '<<name>>') AS floor
    FROM pg_current_snapshot() AS s
)
SELECT 'place' AS kind, row_to_json(place)::text AS document, NULL AS xid FROM place
UNION ALL
SELECT 'row', json_build_object(<<document>>)::text, r.rowcast_xid::text
FROM <<table>> AS r
WHERE r.<<session>> = ANY ($1::text[]::<<session_type>>[])
    AND r.rowcast_xid >= $2::text::xid8 AND r.rowcast_xid < pg_snapshot_xmax(pg_current_snapshot())
UNION ALL
SELECT 'gone', json_build_object('<<key_name>>', t.key, '<<session_name>>', t.session_id, 'version', t.version)::text, t.xid::text
FROM rowcast.tombstone AS t
WHERE t.watch = '<<name>>' AND t.session_id = ANY ($1::text[])
    AND t.xid >= $2::text::xid8 AND t.xid < pg_snapshot_xmax(pg_current_snapshot());

-- name: session
-- All rows of one session; with a horizon also the rows that have gone since.
-- $1 session id, text · $2 horizon, text or NULL
WITH place AS MATERIALIZED (
    SELECT pg_snapshot_xmin(s) AS horizon, pg_snapshot_xmax(s) AS ceiling, pg_is_in_recovery() AS standby,
        <<epoch>> AS epoch, <<stamped>> AS stamped,
        (SELECT floor FROM rowcast.watch WHERE name = '<<name>>') AS floor
    FROM pg_current_snapshot() AS s
)
SELECT 'place' AS kind, row_to_json(place)::text AS document, NULL AS xid FROM place
UNION ALL
SELECT 'row', json_build_object(<<document>>)::text, r.rowcast_xid::text
FROM <<table>> AS r
WHERE r.<<session>> = $1::text::<<session_type>>
UNION ALL
SELECT 'gone', json_build_object('<<key_name>>', t.key, '<<session_name>>', t.session_id, 'version', t.version)::text, t.xid::text
FROM rowcast.tombstone AS t
WHERE t.watch = '<<name>>' AND t.session_id = $1::text
    AND t.xid >= $2::text::xid8 AND t.xid < pg_snapshot_xmax(pg_current_snapshot());

-- name: begin_epoch
SELECT rowcast.begin_epoch('<<name>>');
