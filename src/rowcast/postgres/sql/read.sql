-- The hot queries. Rows and the next cursor come from one statement: `place` is the snapshot that the rows were read
-- in. kind 'place' is its one row; 'row' and 'gone' are row states, with the transaction that made them.

-- name: place
-- What the others begin with: where they stand.
WITH place AS MATERIALIZED (
    SELECT pg_snapshot_xmin(s) AS horizon, pg_snapshot_xmax(s) AS ceiling, pg_is_in_recovery() AS standby,
        <<epoch>> AS epoch, <<stamped>> AS stamped,
        (SELECT floor FROM rowcast.watch WHERE name = '<<name>>') AS floor
    FROM pg_current_snapshot() AS s
)
SELECT 'place' AS kind, row_to_json(place)::text AS document, NULL AS xid FROM place;

-- name: gone
-- What the others end with: the rows that have gone from each session since its horizon.
-- OFFSET keeps it one look into the index for each session, whatever the statistics say.
SELECT 'gone', t.document, t.xid
FROM unnest($1::text[], $2::text[]) AS wanted (session, horizon)
CROSS JOIN LATERAL (
    SELECT json_build_object('<<key_name>>', t.key, '<<session_name>>', t.session_id, 'version', t.version)::text AS document,
        t.xid::text AS xid
    FROM rowcast.tombstone AS t
    WHERE t.watch = '<<name>>' AND t.session_id = wanted.session
        AND t.xid >= wanted.horizon::xid8 AND t.xid < pg_snapshot_xmax(pg_current_snapshot())
    OFFSET 0
) AS t;

-- name: changes
-- Everything of some sessions that changed, each since a horizon of its own: a superset of what was missed, to be reduced
-- by version. The upper bound keeps out transaction ids that a restore brought along.
-- $1 session ids, text[] · $2 their horizons, text[]
<<place>>
UNION ALL
SELECT 'row', r.document, r.xid
FROM unnest($1::text[], $2::text[]) AS wanted (session, horizon)
CROSS JOIN LATERAL (
    SELECT json_build_object(<<document>>)::text AS document, r.rowcast_xid::text AS xid
    FROM <<table>> AS r
    WHERE r.<<session>> = wanted.session::<<session_type>>
        AND r.rowcast_xid >= wanted.horizon::xid8 AND r.rowcast_xid < pg_snapshot_xmax(pg_current_snapshot())
    OFFSET 0
) AS r
UNION ALL
<<gone>>;

-- name: session
-- All rows of some sessions, and the rows that have gone since a horizon, each session's own.
-- $1 session ids, text[] · $2 their horizons, text[]
<<place>>
UNION ALL
SELECT 'row', json_build_object(<<document>>)::text, r.rowcast_xid::text
FROM <<table>> AS r
WHERE r.<<session>> = ANY ($1::text[]::<<session_type>>[])
UNION ALL
<<gone>>;

-- name: begin_epoch
SELECT rowcast.begin_epoch('<<name>>');
