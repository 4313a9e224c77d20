-- The breaker closes for more than a spent quota: it notes for what, since when, and what helps to find out why. Each call
-- notes what was asked for and what the answer says, so that all processes together see what is refused in a row.
ALTER TABLE api_calls ADD COLUMN verdict text, ADD COLUMN about text[];

ALTER TABLE api_gate
    ADD COLUMN cause text,
    ADD COLUMN closed_since timestamptz,
    ADD COLUMN closed_at timestamptz NOT NULL DEFAULT 'epoch',
    ADD COLUMN connection text,
    ADD COLUMN organization_id text,
    ADD COLUMN organizations text;
