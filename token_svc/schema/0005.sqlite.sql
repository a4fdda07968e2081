UPDATE account SET item_bytes = (
    SELECT coalesce(sum(length(CAST(data AS BLOB))), 0) FROM item WHERE account_id = account.id
);
