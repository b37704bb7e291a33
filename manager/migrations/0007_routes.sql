-- Where the topics of a bus cluster are to go: a row for each time that somebody asked. The one with the greatest
-- `id` counts; `text` is NULL where the nodes are to go by their files.
CREATE TABLE routes (
    id      INTEGER PRIMARY KEY,
    cluster TEXT    NOT NULL,
    version TEXT    NOT NULL,
    at_ms   INTEGER NOT NULL,
    who     TEXT    NOT NULL,
    text    TEXT
) STRICT;
CREATE INDEX routes_cluster ON routes (cluster, id);
