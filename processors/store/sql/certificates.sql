-- Certificates: how many live products there were at the end of a run, and what they said, as one number that anybody
-- can compute again. It is the sum of their content digests, taken as two numbers of 64 bits each: so their order does
-- not matter.

-- name: certify
SELECT count(*) AS items,
       coalesce(sum(('x' || encode(substr(digest, 1, 8), 'hex'))::bit(64)::bigint), 0) AS high,
       coalesce(sum(('x' || encode(substr(digest, 9, 8), 'hex'))::bit(64)::bigint), 0) AS low,
       pg_current_snapshot()::text AS snapshot,
       -- After the snapshot: whatever began later is not in it.
       clock_timestamp() AS certified_at
  -- "OFFSET 0" keeps the digest from being computed for each of its uses.
  FROM (SELECT sha256(convert_to(concat_ws(',', digest_part(product.zoho_item_id), {content: digest_part(product.@)}),
                                 'UTF8')) AS digest
          FROM products AS product
         WHERE deleted_at IS NULL
        OFFSET 0) AS live;

-- name: recompute
-- The same for the moment of a certificate: of what was changed since, the history tells what was there before. A row
-- that was created since had no name before.
WITH since AS MATERIALIZED (
    SELECT id, item_id, changes, cause
      FROM product_changes
     WHERE changed_at > %(certified_at)s
        OR made_in >= pg_snapshot_xmin(%(snapshot)s::pg_snapshot)
           AND NOT pg_visible_in_snapshot(made_in, %(snapshot)s::pg_snapshot)
), before AS MATERIALIZED (
    SELECT item_id, jsonb_object_agg(key, value -> 0 ORDER BY id DESC) AS was
      FROM since, jsonb_each(changes)
     GROUP BY item_id
), then_there AS (
    SELECT CASE WHEN was IS NULL THEN products ELSE jsonb_populate_record(products, was) END AS product
      FROM products
      LEFT JOIN before ON item_id = zoho_item_id
     WHERE (was -> 'name') IS DISTINCT FROM 'null'::jsonb
    -- Made once for each product, not for each of its columns.
    OFFSET 0
), live AS (
    SELECT sha256(convert_to(concat_ws(',', digest_part((product).zoho_item_id), {content: digest_part((product).@)}),
                             'UTF8')) AS digest
      FROM then_there
     WHERE (product).deleted_at IS NULL
    OFFSET 0
)
SELECT count(*) AS items,
       coalesce(sum(('x' || encode(substr(digest, 1, 8), 'hex'))::bit(64)::bigint), 0) AS high,
       coalesce(sum(('x' || encode(substr(digest, 9, 8), 'hex'))::bit(64)::bigint), 0) AS low,
       (SELECT count(*) FROM before) AS changed_since,
       -- What these rows said before they were altered is not in the history.
       (SELECT count(DISTINCT item_id) FROM since WHERE cause = 'altered_here') AS repaired_since
  FROM live;

-- name: altered
-- Rows that something other than the mirror wrote, some of them by name.
SELECT count(*) AS count, (array_agg(zoho_item_id ORDER BY altered_at DESC))[1:10] AS item_ids
  FROM products
 WHERE altered_at IS NOT NULL;
