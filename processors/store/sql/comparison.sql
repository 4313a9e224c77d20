-- What Zoho's list says of items, compared with their rows. Each item is looked up by its key, hence the laterals and their
-- limits: a join would read both tables whole where they were never analyzed.

-- name: find_unknown
-- Of a page, all but the items whose row is the very one that was found to agree with the very same words.
SELECT listed.item_id, product.*,
       CASE WHEN product.revision IS NULL THEN absences_of(listed.item_id) ELSE 0 END AS absences
  FROM unnest(%(item_id)b::text[], %(digest)b::bytea[]) AS listed (item_id, digest)
  LEFT JOIN LATERAL (SELECT * FROM listed_digests WHERE item_id = listed.item_id LIMIT 1) AS known ON true
  LEFT JOIN LATERAL (SELECT *, xmin AS row_version
                       FROM products
                      WHERE zoho_item_id = listed.item_id
                      LIMIT 1) AS product ON true
 WHERE (known.digest = listed.digest AND known.revision = product.revision AND known.row_version = product.row_version
        AND product.altered_at IS NULL) IS NOT TRUE;

-- name: keep
-- Of rows that were found to agree; of those that are written, settle keeps it (settlement.sql).
INSERT INTO listed_digests (item_id, digest, revision, row_version)
SELECT item_id, digest, revision, row_version::xid
  FROM unnest(%(item_id)b::text[], %(digest)b::bytea[], %(revision)b::bigint[], %(row_version)b::text[])
       AS agreement (item_id, digest, revision, row_version)
 ORDER BY item_id
    ON CONFLICT (item_id) DO UPDATE
   SET digest = excluded.digest, revision = excluded.revision, row_version = excluded.row_version;
