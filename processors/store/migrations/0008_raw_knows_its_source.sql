-- Rows that are there count as not listed: the keys that only a list gave them stay.
ALTER TABLE products ADD COLUMN is_listed boolean NOT NULL DEFAULT false;
