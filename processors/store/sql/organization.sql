-- Whose items the rows are: one organisation's, until the database is empty again.

-- name: find
SELECT mirrored_organization_id,
       (SELECT min(zoho_item_id) FROM products) IS NOT NULL
           OR EXISTS (SELECT FROM reconciliation_runs WHERE seen > 0) AS has_content
  FROM zoho_connection;

-- name: keep
UPDATE zoho_connection SET mirrored_organization_id = %(organization_id)s;

-- name: end_runs
-- Whatever was begun for another organisation commits nothing more.
UPDATE reconciliation_runs
   SET state = 'failed', finished_at = now(), error = 'organisation ' || %(organization_id)s || ' is mirrored instead'
 WHERE state = 'running';

-- name: release_fetches
UPDATE events SET state = 'recorded', claimable_at = now(), queued_at = NULL WHERE state = 'processing' AND needs_fetch;
