-- What deliveries look like.

-- name: add
-- Count deliveries by their shape.
INSERT INTO delivery_shapes (route, fingerprint, signature, secret, form, envelope, keys, missing, looked_at)
SELECT route, fingerprint, signature, secret, form, envelope,
       ARRAY(SELECT jsonb_array_elements_text(keys::jsonb)), ARRAY(SELECT jsonb_array_elements_text(missing::jsonb)),
       looked_at
  FROM unnest(%(route)b::text[], %(fingerprint)b::bytea[], %(signature)b::text[], %(secret)b::integer[],
              %(form)b::text[], %(envelope)b::text[], %(keys)b::text[], %(missing)b::text[], %(looked_at)b::bigint[])
       AS seen (route, fingerprint, signature, secret, form, envelope, keys, missing, looked_at)
 ORDER BY route, fingerprint
    ON CONFLICT (route, fingerprint) DO UPDATE
   SET looked_at = delivery_shapes.looked_at + excluded.looked_at, last_seen_at = now();

-- name: listed
-- All shapes, the one that was seen last first.
SELECT route, signature, secret, form, envelope, keys, missing, first_seen_at, last_seen_at, looked_at
  FROM delivery_shapes
 ORDER BY last_seen_at DESC, first_seen_at DESC, fingerprint;

-- name: lost_keys
-- Mapped keys that deliveries had, and that none has had since a shape without them was seen for the first time; with
-- how many deliveries of such new shapes were looked at. That an item of some kind lacks a key is no evidence: its shape
-- was seen before.
WITH key_seen AS (
    SELECT route, key, max(last_seen_at) AS at
      FROM delivery_shapes, unnest(keys) AS key
     WHERE key = ANY(%(mapped)b)
     GROUP BY route, key
)
SELECT key_seen.route, key_seen.key, key_seen.at AS last_seen_at, sum(delivery_shapes.looked_at)::bigint AS looked_at
  FROM key_seen
  JOIN delivery_shapes
    ON delivery_shapes.route = key_seen.route
   AND delivery_shapes.first_seen_at > key_seen.at
   AND key_seen.key = ANY(delivery_shapes.missing)
 GROUP BY key_seen.route, key_seen.key, key_seen.at
HAVING sum(delivery_shapes.looked_at) >= %(least)s
 ORDER BY key_seen.route, key_seen.key;

-- name: accept
-- Forget the shapes that are out of use since a newer one of their route came.
DELETE FROM delivery_shapes AS old
 WHERE EXISTS (SELECT
                 FROM delivery_shapes AS newer
                WHERE newer.route = old.route
                  AND newer.first_seen_at > old.last_seen_at);

-- name: trim
-- Forget what was not seen for long, and keep no more than so many of each route.
DELETE FROM delivery_shapes
 WHERE last_seen_at < now() - %(older_than)s::interval
    OR (route, fingerprint) IN (SELECT route, fingerprint
                                  FROM (SELECT route, fingerprint,
                                               row_number() OVER (PARTITION BY route ORDER BY last_seen_at DESC) AS nth
                                          FROM delivery_shapes) AS ranked
                                 WHERE nth > %(most)s);
