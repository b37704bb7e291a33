-- The batch that lost bytes had become: when it turns out to be delivered, they are no loss.
ALTER TABLE losses ADD COLUMN stream INTEGER;
ALTER TABLE losses ADD COLUMN epoch INTEGER;
ALTER TABLE losses ADD COLUMN seq INTEGER;
CREATE INDEX losses_batch ON losses (topic_id, stream, epoch, seq) WHERE stream IS NOT NULL;

-- What was told as lost was counted as missing too, and taken off when it was shown.
UPDATE tallies SET missing = missing - dropped WHERE dropped <> 0;
