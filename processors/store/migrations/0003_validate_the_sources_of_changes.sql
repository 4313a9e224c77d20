-- outside a transaction
ALTER TABLE product_changes VALIDATE CONSTRAINT product_changes_source;
