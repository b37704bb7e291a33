import { expect, it } from 'vitest';

import { add, bucketMinutes, buckets, isNothing, NO_COUNTS, spanMinutes } from './minutes';

it('draws an hour by the minute and a week by less', () => {
  expect(bucketMinutes(60)).toBe(1);
  expect(bucketMinutes(360)).toBe(1);
  expect(bucketMinutes(1440)).toBe(5);
  expect(bucketMinutes(10_080)).toBe(30);
  expect(bucketMinutes(10_080, 60)).toBe(60);
  expect(bucketMinutes(10 * 365 * 1440, 1440)).toBe(14_400);
});

it('adds minutes up without losing a record', () => {
  const minutes = Array.from({ length: 13 }, (_, i) => ({
    minute_ms: (i + 3) * 60_000,
    counts: { ...NO_COUNTS, read: i, unexplained: 1 },
  }));
  const found = buckets(minutes, 5);
  expect(found.map((bucket) => bucket.fromMs / 60_000)).toEqual([0, 5, 10, 15]);
  expect(found.reduce((sum, bucket) => sum + bucket.counts.read, 0)).toBe(78);
  expect(found.reduce((sum, bucket) => sum + bucket.counts.unexplained, 0)).toBe(13);
});

it('shows what minutes skip as nothing', () => {
  const one = (minute: number) => ({ minute_ms: minute * 60_000, counts: { ...NO_COUNTS, read: 1 } });
  const minutes = [one(0), one(31)];
  expect(spanMinutes(minutes, 1)).toBe(32);
  expect(buckets(minutes, 10).map((bucket) => bucket.counts.read)).toEqual([1, 0, 0, 1]);
  expect(spanMinutes([], 60)).toBe(0);
});

it('knows nothing when it sees it', () => {
  expect(isNothing(NO_COUNTS)).toBe(true);
  expect(isNothing(add(NO_COUNTS, { ...NO_COUNTS, ahead: 1 }))).toBe(false);
});
