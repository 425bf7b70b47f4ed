-- What both provers ask of the ledger's tables.

-- name: stray_rows
-- Journal rows and entries outside every lane: below seq 0, past the lane's end, or in a lane that does not exist. Each
-- part is sorted as an index is, so that Postgres reads only such rows, normally none, and not the whole table.
SELECT found.lane, found.seq, bool_or(found.is_row) AS has_row
FROM (
    SELECT beside.lane, beside.seq, beside.is_row
    FROM ledger.lane AS l
    CROSS JOIN LATERAL (
        (
            SELECT lane, seq, true AS is_row
            FROM ledger.journal
            WHERE lane = l.lane AND seq < 0
            ORDER BY lane, seq
            LIMIT %(limit)s::integer
        )
        UNION ALL
        (
            SELECT lane, seq, true AS is_row
            FROM ledger.journal
            WHERE lane = l.lane AND seq >= l.next_seq
            ORDER BY lane, seq
            LIMIT %(limit)s::integer
        )
        UNION ALL
        (
            SELECT lane, seq, false AS is_row
            FROM ledger.entry
            WHERE lane = l.lane AND ledger.leg_place(seq, leg) < 0
            ORDER BY lane, ledger.leg_place(seq, leg)
            LIMIT %(limit)s::integer
        )
        UNION ALL
        (
            SELECT lane, seq, false AS is_row
            FROM ledger.entry
            WHERE lane = l.lane AND ledger.leg_place(seq, leg) >= ledger.leg_place(l.next_seq, 0)
            ORDER BY lane, ledger.leg_place(seq, leg)
            LIMIT %(limit)s::integer
        )
    ) AS beside
    UNION ALL
    (SELECT lane, seq, true AS is_row FROM ledger.journal WHERE lane < 0 ORDER BY lane LIMIT %(limit)s::integer)
    UNION ALL
    (
        SELECT lane, seq, true AS is_row
        FROM ledger.journal
        WHERE lane > (SELECT coalesce(max(l.lane), -1) FROM ledger.lane AS l)
        ORDER BY lane
        LIMIT %(limit)s::integer
    )
    UNION ALL
    (SELECT lane, seq, false AS is_row FROM ledger.entry WHERE lane < 0 ORDER BY lane LIMIT %(limit)s::integer)
    UNION ALL
    (
        SELECT lane, seq, false AS is_row
        FROM ledger.entry
        WHERE lane > (SELECT coalesce(max(l.lane), -1) FROM ledger.lane AS l)
        ORDER BY lane
        LIMIT %(limit)s::integer
    )
) AS found
GROUP BY found.lane, found.seq
ORDER BY found.lane, found.seq
