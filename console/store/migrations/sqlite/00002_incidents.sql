-- +goose Up
CREATE TABLE incidents (
	id           INTEGER PRIMARY KEY,
	category     TEXT NOT NULL,
	custom_rule  TEXT NOT NULL,
	profile      TEXT NOT NULL, -- the App ID and container, or what else tells resources apart
	app_id       TEXT NOT NULL,
	instance     TEXT NOT NULL, -- of the Defender that saw it last
	first        INTEGER NOT NULL,
	last         INTEGER NOT NULL,
	count        INTEGER NOT NULL, -- of audits
	acknowledged INTEGER NOT NULL DEFAULT 0,
	who          TEXT NOT NULL DEFAULT '' -- acknowledged it
) STRICT;
CREATE INDEX incidents_profile ON incidents (profile, category, custom_rule);
CREATE INDEX incidents_last ON incidents (last);

-- The first audits of an incident. They stay when audits are pruned.
CREATE TABLE incident_audits (
	incident INTEGER NOT NULL REFERENCES incidents (id) ON DELETE CASCADE,
	number   INTEGER NOT NULL,
	id       TEXT NOT NULL, -- "<instance>-<sequence>"
	raw      TEXT NOT NULL,
	PRIMARY KEY (incident, number)
) STRICT, WITHOUT ROWID;

-- What Defenders remember of their containers, as they sent it.
CREATE TABLE snapshots (
	id       INTEGER PRIMARY KEY,
	instance TEXT NOT NULL,
	app_id   TEXT NOT NULL,
	at       INTEGER NOT NULL,
	asked    INTEGER NOT NULL, -- somebody wanted it; otherwise an incident did
	events   INTEGER NOT NULL,
	data     BLOB NOT NULL -- JSON in zstd
) STRICT;
CREATE INDEX snapshots_instance ON snapshots (instance);
