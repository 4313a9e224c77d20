-- What Zoho's list says of items, compared with their rows.
--
-- Each item is looked up by its key, whatever the planner thinks of a table that was never analyzed: hence the laterals
-- and their limits. Where a page leaves few items, arrays come by way of a SELECT, which hides their length: the planner
-- would else find a plan for two items cheaper than the one for any number, and make it anew each time.

-- name: by_digest
-- The items of a page but for those whose row is the very one that was found to agree with the very same words.
SELECT listed.item_id, product.revision IS NOT NULL AS has_row,
       CASE WHEN product.revision IS NULL THEN absences_of(listed.item_id) ELSE 0 END AS absences
  FROM unnest(%(item_id)b::text[], %(digest)b::bytea[]) AS listed (item_id, digest)
  LEFT JOIN LATERAL (SELECT * FROM listed_digests WHERE item_id = listed.item_id LIMIT 1) AS known ON true
  LEFT JOIN LATERAL (SELECT revision, altered_at, xmin AS row_version
                       FROM products
                      WHERE zoho_item_id = listed.item_id
                      LIMIT 1) AS product ON true
 WHERE (known.digest = listed.digest AND known.revision = product.revision AND known.row_version = product.row_version
        AND product.altered_at IS NULL) IS NOT TRUE;

-- name: by_columns
-- What is known of the items of a page. Of those that differ from their rows all of it: rows that are missing, tombstoned,
-- altered by others, of another time, or of other content. Of the others, which version of the row agrees.
SELECT differing.*, listed.item_id, product.revision, product.row_version, agrees,
       CASE WHEN product.revision IS NULL THEN absences_of(listed.item_id) ELSE 0 END AS absences
  FROM unnest((SELECT %(item_id)b::text[]), (SELECT %(name)b::text[]), (SELECT %(sku)b::text[]),
              (SELECT %(description)b::text[]), (SELECT %(price)b::numeric[]), (SELECT %(stock_quantity)b::integer[]),
              (SELECT %(stock_on_hand)b::numeric[]), (SELECT %(is_active)b::boolean[]),
              (SELECT %(category_id)b::text[]), (SELECT %(category_name)b::text[]), (SELECT %(brand)b::text[]),
              (SELECT %(unit)b::text[]), (SELECT %(zoho_last_modified_at)b::timestamptz[]))
       AS listed (item_id, name, sku, description, price, stock_quantity, stock_on_hand, is_active, category_id,
                  category_name, brand, unit, zoho_last_modified_at)
  LEFT JOIN LATERAL (SELECT *, xmin::text AS row_version
                       FROM products
                      WHERE zoho_item_id = listed.item_id
                      LIMIT 1) AS product ON true
 CROSS JOIN LATERAL (SELECT product.revision IS NOT NULL
                        AND product.deleted_at IS NULL
                        AND product.altered_at IS NULL
                        AND product.zoho_last_modified_at IS NOT DISTINCT FROM listed.zoho_last_modified_at
                        AND (product.name, product.is_active) = (listed.name, listed.is_active)
                        AND product.sku IS NOT DISTINCT FROM listed.sku
                        AND product.description IS NOT DISTINCT FROM listed.description
                        AND product.price IS NOT DISTINCT FROM listed.price
                        AND product.stock_quantity IS NOT DISTINCT FROM listed.stock_quantity
                        AND product.stock_on_hand IS NOT DISTINCT FROM listed.stock_on_hand
                        AND product.category_id IS NOT DISTINCT FROM listed.category_id
                        AND product.category_name IS NOT DISTINCT FROM listed.category_name
                        AND product.brand IS NOT DISTINCT FROM listed.brand
                        AND product.unit IS NOT DISTINCT FROM listed.unit AS agrees) AS compared
  LEFT JOIN LATERAL (SELECT product.* WHERE NOT agrees) AS differing ON true;

-- name: keep_digests
-- Of rows that were written in this transaction nobody else can have made another version yet: theirs is read here.
INSERT INTO listed_digests (item_id, digest, revision, row_version)
SELECT kept.item_id, kept.digest, kept.revision, coalesce(kept.row_version::xid, product.row_version)
  FROM unnest((SELECT %(item_id)b::text[]), (SELECT %(digest)b::bytea[]), (SELECT %(revision)b::bigint[]),
              (SELECT %(row_version)b::text[]))
       AS kept (item_id, digest, revision, row_version)
  LEFT JOIN LATERAL (SELECT xmin AS row_version
                       FROM products
                      WHERE zoho_item_id = kept.item_id
                      LIMIT 1) AS product ON true
 ORDER BY kept.item_id
    ON CONFLICT (item_id) DO UPDATE
   SET digest = excluded.digest, revision = excluded.revision, row_version = excluded.row_version;
