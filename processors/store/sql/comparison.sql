-- What Zoho's list says of items, compared with their rows. Each item is looked up by its key, whatever the planner thinks
-- of a table that was never analyzed: hence the laterals and their limits.

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
-- A page often leaves few to keep. By way of a SELECT the planner does not see how few: it would else find a plan for two
-- cheaper than the one for any number, and make it anew each time.
INSERT INTO listed_digests (item_id, digest, revision, row_version)
SELECT agreement.item_id, agreement.digest, agreement.revision,
       -- Of what was written in this transaction nobody else can have made another version yet.
       coalesce(agreement.row_version::xid, product.row_version)
  FROM unnest((SELECT %(item_id)b::text[]), (SELECT %(digest)b::bytea[]), (SELECT %(revision)b::bigint[]),
              (SELECT %(row_version)b::text[]))
       AS agreement (item_id, digest, revision, row_version)
  LEFT JOIN LATERAL (SELECT xmin AS row_version
                       FROM products
                      WHERE zoho_item_id = agreement.item_id
                      LIMIT 1) AS product ON true
 ORDER BY agreement.item_id
    ON CONFLICT (item_id) DO UPDATE
   SET digest = excluded.digest, revision = excluded.revision, row_version = excluded.row_version;
