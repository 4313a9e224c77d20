-- What the statement that settles looks at again once it holds its lock.
CREATE FUNCTION absences_now(an_item_id text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN absences_of(an_item_id);
END $$;
CREATE FUNCTION has_row_now(an_item_id text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM products WHERE zoho_item_id = an_item_id);
END $$;
