UPDATE account SET item_bytes = (SELECT coalesce(sum(octet_length(data)), 0) FROM item WHERE account_id = account.id);
