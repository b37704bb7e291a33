-- The ledger: what was counted where. All times `_ms` are milliseconds since 1970 by the manager's
-- clock unless said otherwise; minutes and hours count from 1970-01-01 00:00 UTC in event time.
-- Numbers that are unsigned in Rust (stream, epoch, generation) stand here with their bits as i64.

CREATE TABLE topics (
    id       INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL
) STRICT;

-- Records per topic and event minute (grain 1) and again per event hour (grain 60), so that a sum
-- over days reads hours. Every column is the sum of what the stream states below say.
CREATE TABLE tallies (
    topic_id   INTEGER NOT NULL,
    grain      INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    read       INTEGER NOT NULL,
    sent       INTEGER NOT NULL,
    received   INTEGER NOT NULL,
    delivered  INTEGER NOT NULL,
    in_flight  INTEGER NOT NULL,
    refused    INTEGER NOT NULL,
    missing    INTEGER NOT NULL,
    ahead      INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    doubled    INTEGER NOT NULL,
    dropped    INTEGER NOT NULL,
    touched_ms INTEGER NOT NULL,
    PRIMARY KEY (topic_id, grain, at)
) STRICT, WITHOUT ROWID;
CREATE INDEX tallies_touched ON tallies (touched_ms);

-- Per stream and agent life the sets of sequence numbers per hop (`state`: see
-- service/ledger.rs). `holder` is the node whose last snapshot holds batches of it.
CREATE TABLE streams (
    topic_id   INTEGER NOT NULL,
    stream     INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    holder     INTEGER,
    touched_ms INTEGER NOT NULL,
    state      BLOB    NOT NULL,
    PRIMARY KEY (topic_id, stream, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX streams_holder ON streams (holder) WHERE holder IS NOT NULL;
CREATE INDEX streams_touched ON streams (touched_ms);

-- Agents and bus nodes. `epoch` and `number` are those of the newest report.
CREATE TABLE nodes (
    id       INTEGER PRIMARY KEY,
    part     TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    host     TEXT    NOT NULL,
    zone     TEXT    NOT NULL,
    cluster  TEXT    NOT NULL,
    epoch    INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    restarts INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    skew_ms  INTEGER NOT NULL,
    health   TEXT    NOT NULL,
    UNIQUE (part, name)
) STRICT;

-- Which report numbers of a node's life were taken (`numbers`: a set as in service/ledger.rs).
CREATE TABLE reports (
    node_id    INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    touched_ms INTEGER NOT NULL,
    numbers    BLOB    NOT NULL,
    PRIMARY KEY (node_id, epoch)
) STRICT, WITHOUT ROWID;

-- Which agents told facts of a topic.
CREATE TABLE topic_nodes (
    topic_id INTEGER NOT NULL,
    node_id  INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    PRIMARY KEY (topic_id, node_id)
) STRICT, WITHOUT ROWID;

-- Source bytes that will never be sent. The same bytes with the same reason are one loss.
CREATE TABLE losses (
    id         INTEGER PRIMARY KEY,
    node_id    INTEGER NOT NULL,
    topic_id   INTEGER NOT NULL,
    task       TEXT    NOT NULL,
    file       TEXT    NOT NULL,
    generation INTEGER NOT NULL,
    span_start INTEGER NOT NULL,
    span_end   INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    records    INTEGER,
    minute     INTEGER NOT NULL,
    seen_ms    INTEGER NOT NULL,
    UNIQUE (topic_id, task, generation, span_start, span_end, reason)
) STRICT;
CREATE INDEX losses_minute ON losses (minute);
CREATE INDEX losses_seen ON losses (seen_ms);
