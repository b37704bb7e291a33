-- Where a bus node sent the batches of some topics to another destination of their route: from `used_from_ms` to `at_ms`
-- they went to `from_name`, then to `to_name`; by the node's clock.
CREATE TABLE switches (
    id           INTEGER PRIMARY KEY,
    node_id      INTEGER NOT NULL,
    topic        TEXT    NOT NULL,
    at_ms        INTEGER NOT NULL,
    from_name    TEXT    NOT NULL,
    used_from_ms INTEGER NOT NULL,
    to_name      TEXT    NOT NULL,
    why          TEXT    NOT NULL,
    UNIQUE (node_id, topic, at_ms)
) STRICT;
