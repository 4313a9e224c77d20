-- The programs that may use the JSON API.

-- name: add_token
-- No row: a token that is not revoked has that name.
INSERT INTO api_tokens (name, digest, scope, created_by)
VALUES (%(name)s, %(digest)s, %(scope)s, %(created_by)s)
ON CONFLICT DO NOTHING
RETURNING id, name, scope, created_at, created_by, used_at, revoked_at, revoked_by;

-- name: list_tokens
-- Those that open something first, the newest first.
SELECT id, name, scope, created_at, created_by, used_at, revoked_at, revoked_by
  FROM api_tokens
 ORDER BY revoked_at IS NOT NULL, id DESC;

-- name: find_token
SELECT id, name, scope, created_at, created_by, used_at, revoked_at, revoked_by
  FROM api_tokens
 WHERE id = %(token_id)s;

-- name: revoke_token
-- No row: it is revoked already, or was never there.
UPDATE api_tokens
   SET revoked_at = now(), revoked_by = %(revoked_by)s
 WHERE id = %(token_id)s
   AND revoked_at IS NULL
RETURNING id, name, scope, created_at, created_by, used_at, revoked_at, revoked_by;

-- name: recognise_token
-- Whose token it is; that it was used is noted at most once a minute, so that a busy program costs no writes.
WITH used AS (
    UPDATE api_tokens
       SET used_at = now()
     WHERE digest = %(digest)s
       AND revoked_at IS NULL
       AND (used_at IS NULL OR used_at < now() - interval '1 minute')
)
SELECT id, name, scope
  FROM api_tokens
 WHERE digest = %(digest)s
   AND revoked_at IS NULL;
