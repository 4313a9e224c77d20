-- Deliveries that were refused at the door.

-- name: add
INSERT INTO rejections (hour, route, reason, count)
SELECT date_trunc('hour', now()), route, reason, count
  FROM unnest(%(route)b::text[], %(reason)b::text[], %(count)b::bigint[]) AS counted (route, reason, count)
    ON CONFLICT (hour, route, reason) DO UPDATE SET count = rejections.count + excluded.count;
