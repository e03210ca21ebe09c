-- One row per thing; `body` is its codec JSON. What a constraint or a query needs is a column.

CREATE TABLE meta (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE known (
  uid TEXT PRIMARY KEY,
  body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Deferred: one write brings a workflow and its duties in any order.
CREATE TABLE duties (
  daemon_id TEXT NOT NULL,
  uid TEXT NOT NULL REFERENCES known (uid) DEFERRABLE INITIALLY DEFERRED,
  body TEXT NOT NULL,
  PRIMARY KEY (daemon_id, uid)
) STRICT;

CREATE INDEX duties_by_uid ON duties (uid);

CREATE TABLE revs (
  daemon_id TEXT PRIMARY KEY,
  rev INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE signed_sets (
  daemon_id TEXT PRIMARY KEY,
  payload TEXT NOT NULL,
  signature TEXT NOT NULL,
  key_id TEXT NOT NULL
) STRICT;

CREATE TABLE daemons (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  is_revoked INTEGER NOT NULL CHECK (is_revoked IN (0, 1)),
  body TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX daemons_by_name ON daemons (name) WHERE is_revoked = 0;

CREATE TABLE reports (
  daemon_id TEXT PRIMARY KEY,
  boot_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  body TEXT NOT NULL
) STRICT;

CREATE TABLE tokens (
  token_hash TEXT PRIMARY KEY,
  body TEXT NOT NULL
) STRICT;

CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL,
  severity TEXT NOT NULL,
  reason TEXT NOT NULL,
  subject TEXT NOT NULL,
  message TEXT NOT NULL,
  daemon TEXT NOT NULL,
  revision TEXT NOT NULL,
  count INTEGER NOT NULL CHECK (count > 0)
) STRICT;

CREATE INDEX events_by_subject ON events (subject, reason, id);

CREATE TABLE small_values (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
