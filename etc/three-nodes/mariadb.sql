-- Mercury's database, and a user that may use only this one. Read at each start; each statement is one line.
CREATE DATABASE IF NOT EXISTS mercury CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS mercury@127.0.0.1;
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP ON mercury.* TO mercury@127.0.0.1;
