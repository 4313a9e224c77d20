-- The gate's lock is held by one statement, whatever becomes of the caller.
CREATE FUNCTION admit_call(of_purpose text, of_run bigint, most_a_minute bigint, most_a_day bigint, most_at_once bigint,
    longest interval, by_connection text, is_persons boolean)
    RETURNS TABLE (id bigint, cause text, closed_by text, retry_after interval) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM api_gate FOR UPDATE;
    RETURN QUERY
    WITH clock AS MATERIALIZED (
        SELECT clock_timestamp() AS at
    ), waits AS (
        -- What was refused to one connection says nothing of another, and a person who looks finds out sooner.
        SELECT 'the breaker is open: ' || coalesce(reason, '') AS cause, closed_until AS until,
               coalesce(api_gate.cause, 'quota') AS closed_by
          FROM api_gate, clock
         WHERE closed_until > at
           AND (coalesce(api_gate.cause, 'quota') = 'quota'
                OR NOT is_persons
                   AND (api_gate.cause <> 'installation' OR connection IS NOT DISTINCT FROM by_connection))
         UNION ALL
        SELECT 'this minute''s calls are used up', ends_at + '60 seconds', NULL
          FROM (SELECT ends_at FROM api_calls ORDER BY ends_at DESC OFFSET most_a_minute - 1 LIMIT 1) AS nth, clock
         WHERE ends_at > at - interval '60 seconds'
         UNION ALL
        SELECT 'this day''s calls are used up', ends_at + '24 hours', NULL
          FROM (SELECT ends_at FROM api_calls ORDER BY ends_at DESC OFFSET most_a_day - 1 LIMIT 1) AS nth, clock
         WHERE ends_at > at - interval '24 hours'
         UNION ALL
        -- After the breaker was open a single call goes ahead and finds out.
        SELECT 'as many calls as allowed are under way', at + '50 milliseconds', NULL
          FROM clock
         WHERE (SELECT count(*) FROM api_calls WHERE is_running AND ends_at > at)
            >= (SELECT CASE WHEN strikes > 0 THEN 1 ELSE most_at_once END FROM api_gate)
    ), admitted AS (
        INSERT INTO api_calls (started_at, ends_at, purpose, run_id)
        SELECT at, at + longest, of_purpose, of_run
          FROM clock
         WHERE NOT EXISTS (SELECT FROM waits)
     RETURNING id
    )
    SELECT (SELECT id FROM admitted) AS id,
           (SELECT cause FROM waits ORDER BY until DESC LIMIT 1) AS cause,
           (SELECT closed_by FROM waits ORDER BY until DESC LIMIT 1) AS closed_by,
           (SELECT max(until) - (SELECT at FROM clock) FROM waits) AS retry_after;
END $$;
