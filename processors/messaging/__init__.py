"""The doorbell between receiver and worker: Dramatiq over Redis. A message is a hint, the event's row is the truth."""
