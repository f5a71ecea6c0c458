-- Times are microseconds since 1970. Secrets are kept as hashes only.

-- +goose Up
CREATE TABLE users (
	id       INTEGER PRIMARY KEY,
	name     TEXT NOT NULL UNIQUE COLLATE NOCASE,
	role     TEXT NOT NULL,
	password TEXT NOT NULL, -- argon2id, in PHC form
	created  INTEGER NOT NULL,
	changed  INTEGER NOT NULL -- the password
) STRICT;

CREATE TABLE sessions (
	hash    BLOB PRIMARY KEY,
	user    INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	kind    TEXT NOT NULL,
	created INTEGER NOT NULL,
	used    INTEGER NOT NULL,
	expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_user ON sessions (user);

CREATE TABLE tokens (
	id      INTEGER PRIMARY KEY,
	name    TEXT NOT NULL UNIQUE,
	hash    BLOB NOT NULL UNIQUE,
	created INTEGER NOT NULL,
	who     TEXT NOT NULL,
	expires INTEGER, -- NULL: never
	uses    INTEGER, -- left; NULL: any number
	used    INTEGER  -- last
) STRICT;

CREATE TABLE defenders (
	id           INTEGER PRIMARY KEY,
	instance     TEXT NOT NULL UNIQUE,
	credential   BLOB NOT NULL,
	token        TEXT NOT NULL, -- the name it enrolled by
	app_id       TEXT NOT NULL,
	container    TEXT NOT NULL,
	image        TEXT NOT NULL,
	hostname     TEXT NOT NULL,
	version      TEXT NOT NULL,
	level        TEXT NOT NULL DEFAULT '',
	lost         TEXT NOT NULL DEFAULT '[]',
	fail_open    INTEGER NOT NULL DEFAULT 0,
	dry_run      INTEGER NOT NULL DEFAULT 0,
	generation   INTEGER NOT NULL DEFAULT 0,
	policy_error TEXT NOT NULL DEFAULT '',
	queue        INTEGER NOT NULL DEFAULT 0,
	dropped      INTEGER NOT NULL DEFAULT 0,
	started      INTEGER NOT NULL DEFAULT 0,
	first_seen   INTEGER NOT NULL,
	last_seen    INTEGER NOT NULL,
	revoked      INTEGER, -- when; NULL: not
	acknowledged INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The id is the time in milliseconds and a number, so that the order of ids is
-- the order of time: for every index, which ends with the id, and for the text
-- search too.
CREATE TABLE audits (
	id       INTEGER PRIMARY KEY,
	defender INTEGER NOT NULL REFERENCES defenders (id),
	sequence INTEGER NOT NULL,
	type     TEXT NOT NULL,
	effect   TEXT NOT NULL,
	app_id   TEXT NOT NULL,
	raw      TEXT NOT NULL, -- the record as it was sent
	UNIQUE (defender, sequence)
) STRICT;
CREATE INDEX audits_type ON audits (type);
CREATE INDEX audits_effect ON audits (effect);
CREATE INDEX audits_app ON audits (app_id);

CREATE VIRTUAL TABLE audits_text USING fts5 (
	text, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0'
);

CREATE TABLE policies (
	generation INTEGER PRIMARY KEY,
	policy     TEXT NOT NULL,
	who        TEXT NOT NULL,
	at         INTEGER NOT NULL
) STRICT;

CREATE TABLE changes (
	id   INTEGER PRIMARY KEY,
	at   INTEGER NOT NULL,
	who  TEXT NOT NULL,
	what TEXT NOT NULL
) STRICT;

CREATE TABLE settings (
	key   TEXT PRIMARY KEY,
	value BLOB NOT NULL
) STRICT;
