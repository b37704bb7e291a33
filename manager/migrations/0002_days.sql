-- The sums again per event day (grain 1440), so that "all minutes" stays one quick question however
-- far the event times lie apart.

INSERT INTO tallies (topic_id, grain, at, read, sent, received, delivered, in_flight, refused,
                     missing, ahead, duplicates, doubled, dropped, touched_ms)
SELECT topic_id, 1440, at / 24, sum(read), sum(sent), sum(received), sum(delivered), sum(in_flight),
       sum(refused), sum(missing), sum(ahead), sum(duplicates), sum(doubled), sum(dropped),
       max(touched_ms)
  FROM tallies WHERE grain = 60 GROUP BY topic_id, at / 24;
