-- What is no longer needed of the inbox. Each statement begins where the last one ended: what was looked at, and may
-- stay, is not looked at again.

-- name: trim_bodies
-- Bodies of events that finished long ago.
WITH old AS (
    SELECT id, processed_at
      FROM events
     WHERE state = 'processed'
       AND processed_at > (SELECT bodies_trimmed_until FROM retention)
       AND processed_at < now() - %(older_than)s::interval
     ORDER BY processed_at
     LIMIT %(most)s
), trimmed AS (
    UPDATE events SET body = '', query_string = '' FROM old WHERE events.id = old.id
), noted AS (
    UPDATE retention
       SET bodies_trimmed_until = (SELECT max(processed_at) FROM old)
     WHERE EXISTS (SELECT FROM old)
)
SELECT count(*) AS count FROM old;

-- name: trim_events
-- Events that finished still longer ago, with their attempts; not those that say that an item is gone: a late change is
-- judged by them.
WITH old AS (
    SELECT id, processed_at, kind = 'deleted' OR outcome IN ('gone', 'tombstoned') AS stays
      FROM events
     WHERE state = 'processed'
       AND processed_at > (SELECT events_trimmed_until FROM retention)
       AND processed_at < now() - %(older_than)s::interval
     ORDER BY processed_at
     LIMIT %(most)s
), attempts AS (
    -- An array, whose elements are looked up one by one: few events have attempts, and a join would read all there are.
    DELETE FROM event_attempts WHERE event_id = ANY(ARRAY(SELECT id FROM old WHERE NOT stays))
), trimmed AS (
    DELETE FROM events WHERE id IN (SELECT id FROM old WHERE NOT stays)
), noted AS (
    UPDATE retention
       SET events_trimmed_until = (SELECT max(processed_at) FROM old)
     WHERE EXISTS (SELECT FROM old)
)
SELECT count(*) AS count FROM old;
