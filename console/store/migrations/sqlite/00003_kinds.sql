-- +goose Up
-- Audits are looked up by all of what there are few values of, so that a rare
-- combination is found as fast as a common one.
ALTER TABLE audits ADD COLUMN severity TEXT NOT NULL DEFAULT ''; -- of older ones it is in the record alone
DROP INDEX audits_type;
DROP INDEX audits_effect;
DROP INDEX audits_app;
CREATE INDEX audits_kind ON audits (type, effect, severity);
CREATE INDEX audits_app ON audits (app_id, type, effect, severity);
CREATE INDEX audits_defender ON audits (defender, type, effect, severity);
