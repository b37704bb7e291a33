/** Minutes of a range, made ready for charts and tables. Pure. */
import type { Counts, MinuteCounts } from '../api/types';

/** Consecutive minutes added up, so that a long range stays readable. */
export interface Bucket {
  /** Start of its first minute. */
  readonly fromMs: number;
  /** End of its last minute. */
  readonly toMs: number;
  /** The sum of its minutes. */
  readonly counts: Counts;
}

/** The most points that a chart draws. */
const MAX_POINTS = 400;
const STEPS = [1, 2, 5, 10, 15, 20, 30, 60, 120, 240, 360, 720, 1440, 2880, 7200, 14_400, 43_200];
const MINUTE_MS = 60_000;

/** The counts with nothing counted. */
export const NO_COUNTS: Counts = {
  read: 0,
  sent: 0,
  received: 0,
  delivered: 0,
  in_flight: 0,
  spilled: 0,
  duplicates_removed: 0,
  refused: 0,
  dropped: 0,
  doubled: 0,
  unexplained: 0,
  ahead: 0,
  dead: 0,
  purged: 0,
  replayed: 0,
};

/** The names of all counts. */
export const COUNT_NAMES = Object.keys(NO_COUNTS) as (keyof Counts)[];

/** How many minutes one point of a chart covers: few enough points, and none finer than `least`. */
export function bucketMinutes(minutes: number, least = 1): number {
  return STEPS.find((step) => step >= least && minutes / step <= MAX_POINTS) ?? 43_200;
}

/** How many minutes lie from the first to the end of the last step. */
export function spanMinutes(minutes: readonly MinuteCounts[], step: number): number {
  const [first, last] = [minutes[0], minutes.at(-1)];
  return first === undefined || last === undefined ? 0 : (last.minute_ms - first.minute_ms) / MINUTE_MS + step;
}

/**
 * Adds up `step` minutes each, aligned to the clock in UTC. Exact: nothing is averaged. Steps that
 * the minutes skip have nothing.
 */
export function buckets(minutes: readonly MinuteCounts[], step: number): Bucket[] {
  const width = step * MINUTE_MS;
  const found: Bucket[] = [];
  for (const { minute_ms: ms, counts } of minutes) {
    const fromMs = Math.floor(ms / width) * width;
    const last = found.at(-1);
    if (last?.fromMs === fromMs) {
      found[found.length - 1] = { ...last, counts: add(last.counts, counts) };
    } else {
      for (let skipped = last?.toMs ?? fromMs; skipped < fromMs; skipped += width) {
        found.push({ fromMs: skipped, toMs: skipped + width, counts: NO_COUNTS });
      }
      found.push({ fromMs, toMs: fromMs + width, counts });
    }
  }
  return found;
}

/** The sum of two counts. */
export function add(a: Counts, b: Counts): Counts {
  const sum = { ...a };
  for (const name of COUNT_NAMES) sum[name] = a[name] + b[name];
  return sum;
}

/** Whether nothing was counted at all. */
export function isNothing(counts: Counts): boolean {
  return COUNT_NAMES.every((name) => counts[name] === 0);
}
