-- What people asked the manager to do. `id` goes up with time; `details` is JSON of the act's own shape.
CREATE TABLE audit (
    id       INTEGER PRIMARY KEY,
    at_ms    INTEGER NOT NULL,
    who      TEXT    NOT NULL,
    act      TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    ended_ms INTEGER,
    details  TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_subject ON audit (subject, id);
