-- Who may use the console, and their sessions.

-- name: add_operator
-- No row: there is one of that name.
INSERT INTO operators (name, role, password_hash)
VALUES (%(name)s, %(role)s, %(password_hash)s)
ON CONFLICT DO NOTHING
RETURNING name, role, created_at;

-- name: find_operator
SELECT name, role, created_at, password_hash FROM operators WHERE name = %(name)s;

-- name: list_operators
SELECT operator.name, operator.role, operator.created_at, count(session.digest) AS sessions,
       max(session.seen_at) AS seen_at
  FROM operators AS operator
  LEFT JOIN sessions AS session ON session.operator = operator.name AND session.expires_at > now()
 GROUP BY operator.name
 ORDER BY operator.name;

-- name: any_operator
SELECT EXISTS (SELECT FROM operators) AS is_there;

-- name: change_password
-- Of whoever has the former one, if it matters.
UPDATE operators
   SET password_hash = %(password_hash)s
 WHERE name = %(name)s
   AND (%(former)s::text IS NULL OR password_hash = %(former)s)
RETURNING name;

-- name: change_role
UPDATE operators SET role = %(role)s WHERE name = %(name)s RETURNING name;

-- name: remove_operator
DELETE FROM operators WHERE name = %(name)s RETURNING name;

-- name: open_session
-- Whoever signs in tidies up.
WITH expired AS (
    DELETE FROM sessions WHERE expires_at <= now()
)
INSERT INTO sessions (digest, operator, expires_at, address, browser)
VALUES (%(digest)s, %(operator)s, now() + %(idle)s::interval, %(address)s, %(browser)s);

-- name: find_session
-- Who is signed in with it; being seen prolongs it, up to its longest.
WITH prolonged AS (
    UPDATE sessions
       SET seen_at = now(), expires_at = least(now() + %(idle)s::interval, created_at + %(longest)s::interval)
     WHERE digest = %(digest)s
       AND expires_at > now()
       AND seen_at < now() - interval '1 minute'
)
SELECT operator.name, operator.role
  FROM sessions AS session
  JOIN operators AS operator ON operator.name = session.operator
 WHERE session.digest = %(digest)s
   AND session.expires_at > now();

-- name: sessions_of
SELECT digest, created_at, seen_at, address, browser
  FROM sessions
 WHERE operator = %(operator)s
   AND expires_at > now()
 ORDER BY seen_at DESC;

-- name: close_session
DELETE FROM sessions WHERE digest = %(digest)s;

-- name: close_sessions_of
DELETE FROM sessions WHERE operator = %(operator)s AND digest IS DISTINCT FROM %(but)s::bytea;
