-- The applied changes, for programs that follow them.

-- name: extent
-- How far the changes go, and whether any transaction under way may have given one an id without our seeing it: a writer
-- has the table's lock before it takes an id. Every id up to this one was taken before this statement began.
SELECT (SELECT max(id) FROM product_changes) AS last_id,
       EXISTS (SELECT
                 FROM pg_locks
                WHERE locktype = 'relation'
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND relation = 'product_changes'::regclass
                  AND mode = 'RowExclusiveLock'
                  AND granted) AS has_writers;

-- name: changes_between
SELECT id, item_id, changed_at, source, event_id, run_id, cause, zoho_modified_at, changes,
       changed_at < now() - %(longest)s::interval AS is_old
  FROM product_changes
 WHERE id > %(after)s
   AND id <= %(last_id)s
 ORDER BY id
 LIMIT %(most)s;
