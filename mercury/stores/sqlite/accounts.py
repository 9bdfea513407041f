"""What IAccounts asks of SQLite. mercury/stores/sql_accounts.py says what is bound to each statement, and calls it."""

from __future__ import annotations

from typing import Final

from mercury.stores.sql_accounts import AccountStatements

STATEMENTS: Final = AccountStatements(
    add="INSERT INTO account (name, key, secret) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING",
    by_key="SELECT id, name, secret FROM account WHERE key = ?",
    by_id="SELECT id, name, secret FROM account WHERE id = ?",
    change_secret="UPDATE account SET secret = ? WHERE id = ?",  # noqa: S106 - no secret is in the statement
    lock="",  # its one writer writes one transaction at a time
    link="SELECT nr FROM friendship WHERE lower = ? AND higher = ?",
    add_link="INSERT INTO friendship (lower, higher) VALUES (?, ?)",
    friends="SELECT nr, higher FROM friendship WHERE lower = ? UNION ALL "
    "SELECT nr, lower FROM friendship WHERE higher = ?",
    count_friends="SELECT (SELECT count(*) FROM friendship WHERE lower = ?) + "
    "(SELECT count(*) FROM friendship WHERE higher = ?)",
    put_handed="INSERT OR REPLACE INTO handed (mid, device, moved, runs) VALUES (?, ?, ?, ?)",
    drop_handed="DELETE FROM handed WHERE mid = ? AND device = ?",
    handed="SELECT runs FROM handed WHERE mid = ? AND device = ?",
)
