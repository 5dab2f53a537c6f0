-- What the poll source asks, once a tick for all sessions that somebody reads.

-- name: look
-- Everything of some sessions that is visible now and was not visible in an earlier snapshot, with this snapshot.
-- kind as in read.sql. Where nothing has been committed since, or there is no earlier snapshot, only 'place' is returned.
-- One descent of the index on (session, transaction) for each session: LATERAL and OFFSET 0 have it so, whatever the
-- planner thinks of the array, and the array is neither folded nor estimated element by element.
-- $1 session ids, text[] · $2 the earlier snapshot, text or NULL
WITH place AS MATERIALIZED (
    SELECT s AS snapshot, pg_snapshot_xmin(s) AS horizon, pg_snapshot_xmax(s) AS ceiling,
        pg_is_in_recovery() AS standby,
        <<epoch>> AS epoch, <<stamped>> AS stamped,
        (SELECT floor FROM rowcast.watch WHERE name = '<<name>>') AS floor
    FROM pg_current_snapshot() AS s
), watched AS MATERIALIZED (
    SELECT id FROM place, unnest($1::text[]) AS id WHERE place.snapshot::text <> $2::text
)
SELECT 'place' AS kind, row_to_json(place)::text AS document, NULL AS xid FROM place
UNION ALL
SELECT 'row', r.document, r.xid
FROM watched AS w CROSS JOIN LATERAL (
    SELECT json_build_object(<<document>>)::text AS document, r.rowcast_xid::text AS xid
    FROM <<table>> AS r
    WHERE r.<<session>> = w.id::<<session_type>>
        AND r.rowcast_xid >= pg_snapshot_xmin($2::text::pg_snapshot) AND r.rowcast_xid < (SELECT ceiling FROM place)
        AND NOT pg_visible_in_snapshot(r.rowcast_xid, $2::text::pg_snapshot)
    OFFSET 0
) AS r
UNION ALL
SELECT 'gone', t.document, t.xid
FROM watched AS w CROSS JOIN LATERAL (
    SELECT json_build_object('<<key_name>>', t.key, '<<session_name>>', t.session_id, 'version', t.version)::text AS document,
        t.xid::text AS xid
    FROM rowcast.tombstone AS t
    WHERE t.watch = '<<name>>' AND t.session_id = w.id
        AND t.xid >= pg_snapshot_xmin($2::text::pg_snapshot) AND t.xid < (SELECT ceiling FROM place)
        AND NOT pg_visible_in_snapshot(t.xid, $2::text::pg_snapshot)
    OFFSET 0
) AS t;
