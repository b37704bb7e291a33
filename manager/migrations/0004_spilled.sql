-- Of the records in flight, those that a bus node has acknowledged and holds on its disk.
ALTER TABLE tallies ADD COLUMN spilled INTEGER NOT NULL DEFAULT 0;
