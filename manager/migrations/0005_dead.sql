-- Of the records of delivered batches, those that are in the dead letters, those that an operator gave
-- up there, and those that were replayed. The first two are not in `delivered`.
ALTER TABLE tallies ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tallies ADD COLUMN purged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tallies ADD COLUMN replayed INTEGER NOT NULL DEFAULT 0;

-- Per batch which of its records died, and what became of them (`state`: see service/letters.rs).
CREATE TABLE letters (
    topic_id   INTEGER NOT NULL,
    stream     INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    touched_ms INTEGER NOT NULL,
    state      BLOB    NOT NULL,
    PRIMARY KEY (topic_id, stream, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX letters_touched ON letters (touched_ms);
