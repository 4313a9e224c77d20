-- The timetable's memory, and who is alive.

-- name: take_slot
-- The newest slot of a job goes to one clock. Slots are cut by this database's clock; a slot that passed while no
-- clock was up is not made up for one by one: the newest stands for all.
INSERT INTO jobs (name, slot)
SELECT %(name)s, to_timestamp(floor(extract(epoch FROM now()) / %(every_seconds)s) * %(every_seconds)s)
    ON CONFLICT (name) DO UPDATE
   SET slot = excluded.slot, taken_at = now()
 WHERE jobs.slot < excluded.slot
RETURNING slot;

-- name: tell_time
SELECT now() AS now;

-- name: take_this_slot
-- The same for a slot that a cron expression gave.
INSERT INTO jobs (name, slot)
VALUES (%(name)s, %(slot)s)
    ON CONFLICT (name) DO UPDATE
   SET slot = excluded.slot, taken_at = now()
 WHERE jobs.slot < excluded.slot
RETURNING slot;

-- name: beat
INSERT INTO processes (name, role) VALUES (%(name)s, %(role)s)
    ON CONFLICT (name) DO UPDATE SET beat_at = now();

-- name: leave
DELETE FROM processes WHERE name = %(name)s;

-- name: forget_silent_processes
DELETE FROM processes WHERE beat_at < now() - interval '1 day';

-- name: alive
SELECT role, count(*) AS count, min(beat_at) AS beat_at
  FROM processes
 WHERE beat_at > now() - %(within)s::interval
 GROUP BY role;
