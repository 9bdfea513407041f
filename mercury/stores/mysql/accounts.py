"""What IAccounts asks of MySQL. mercury/stores/sql_accounts.py says what is bound to each statement, and calls it."""

from __future__ import annotations

from typing import Final

from mercury.stores.sql_accounts import AccountStatements

STATEMENTS: Final = AccountStatements(
    add="INSERT INTO account (name, compared, secret) VALUES (%s, %s, %s) ON DUPLICATE KEY UPDATE id = id",
    by_key="SELECT id, name, secret FROM account WHERE compared = %s",
    by_id="SELECT id, name, secret FROM account WHERE id = %s",
    change_secret="UPDATE account SET secret = %s WHERE id = %s",  # noqa: S106 - no secret is in the statement
    lock="SELECT 1 FROM account WHERE id = %s FOR UPDATE",
    link="SELECT nr FROM friendship WHERE lower = %s AND higher = %s",
    add_link="INSERT INTO friendship (lower, higher) VALUES (%s, %s)",
    friends="SELECT nr, higher FROM friendship WHERE lower = %s UNION ALL "
    "SELECT nr, lower FROM friendship WHERE higher = %s",
    count_friends="SELECT (SELECT COUNT(*) FROM friendship WHERE lower = %s) + "
    "(SELECT COUNT(*) FROM friendship WHERE higher = %s)",
    put_handed="INSERT INTO handed (mid, device, moved, runs) VALUES (%s, %s, %s, %s) "
    "ON DUPLICATE KEY UPDATE moved = VALUES(moved), runs = VALUES(runs)",
    drop_handed="DELETE FROM handed WHERE mid = %s AND device = %s",
    handed="SELECT runs FROM handed WHERE mid = %s AND device = %s",
)
