-- The audit log: what people and programs did.

-- name: note
INSERT INTO audit_log (channel, requester, address, action, targets, detail)
VALUES (%(channel)s, %(requester)s, %(address)s, %(action)s, %(targets)s, %(detail)s);

-- name: find_entries
-- The newest first; a null chooses everything.
SELECT id, at, channel, requester, address, action, targets, detail
  FROM audit_log
 WHERE (%(before)s::bigint IS NULL OR id < %(before)s)
   AND (%(requester)s::text IS NULL OR requester = %(requester)s)
   AND (%(action)s::text IS NULL OR action = %(action)s)
 ORDER BY id DESC
OFFSET %(skip)s
 LIMIT %(most)s;

-- name: count_entries
SELECT count(*) AS count
  FROM (SELECT
          FROM audit_log
         WHERE (%(requester)s::text IS NULL OR requester = %(requester)s)
           AND (%(action)s::text IS NULL OR action = %(action)s)
         LIMIT %(at_most)s) AS found;

-- name: fetches_of
-- Who asked Zoho for an item, the newest first.
SELECT id, at, channel, requester, address, action, targets, detail
  FROM audit_log
 WHERE action = 'item.fetched'
   AND targets @> ARRAY[%(item_id)s]
 ORDER BY id DESC
 LIMIT %(most)s;

-- name: failed_sign_ins
SELECT count(*) FILTER (WHERE requester = %(name)s) AS by_name,
       count(*) FILTER (WHERE detail ->> 'network' = %(network)s) AS by_network,
       count(*) FILTER (WHERE requester = %(name)s AND detail ->> 'network' = %(network)s) AS by_both,
       EXISTS (SELECT
                 FROM audit_log
                WHERE action = 'sign_in.succeeded'
                  AND requester = %(name)s
                  AND detail ->> 'network' = %(network)s
                  AND at > now() - %(known_for)s::interval) AS is_known_here
  FROM audit_log
 WHERE action = 'sign_in.failed'
   AND at > now() - %(window)s::interval;

-- name: forget_failed_sign_ins
-- Strangers make these rows; what operators and programs did stays.
DELETE FROM audit_log WHERE action = 'sign_in.failed' AND at < now() - %(older_than)s::interval;

-- name: forget_unknown_names
-- What was typed may be a password. Not the newest ones: they still count.
UPDATE audit_log
   SET requester = %(unknown)s
 WHERE action = 'sign_in.failed'
   AND NOT starts_with(requester, %(unknown)s)
   AND NOT EXISTS (SELECT FROM operators WHERE name = audit_log.requester)
   AND at < now() - interval '1 hour';
