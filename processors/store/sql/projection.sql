-- Passes over all products that project anew what another version of the field table projected.

-- name: begin_pass
-- The pass of this version that is under way, or one that is due: the first, a second for rows that processes of the former
-- release wrote meanwhile, and one a day for whatever did so later.
INSERT INTO projection_passes (version) VALUES (%(version)s)
    ON CONFLICT (version) DO UPDATE
   SET position = CASE WHEN projection_passes.ended_at IS NULL THEN projection_passes.position ELSE '' END,
       ended_at = NULL
 WHERE projection_passes.ended_at IS NULL
    OR projection_passes.ended_at <= now() - CASE projection_passes.passes
                                                 WHEN 1 THEN %(second_pass)s::interval
                                                 ELSE %(later_passes)s::interval END
RETURNING position;

-- name: next_portion
-- By key, so many rows at a time. Rows that something other than the mirror wrote wait for Zoho's word.
SELECT max(zoho_item_id) AS last_id,
       array_agg(zoho_item_id ORDER BY zoho_item_id)
           FILTER (WHERE (fields_version, fields_revision) IS DISTINCT FROM (%(version)s, revision)
                     AND altered_at IS NULL) AS outdated
  FROM (SELECT zoho_item_id, fields_version, fields_revision, revision, altered_at
          FROM products
         WHERE zoho_item_id > %(after_item)s
         ORDER BY zoho_item_id
         LIMIT %(most)s) AS portion;

-- name: note_progress
UPDATE projection_passes SET position = greatest(position, %(up_to_item)s) WHERE version = %(version)s AND ended_at IS NULL;

-- name: end_pass
UPDATE projection_passes SET ended_at = now(), passes = passes + 1 WHERE version = %(version)s AND ended_at IS NULL;
