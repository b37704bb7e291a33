/** Ranges of event minutes: in the URL, in queries, in words. Pure. */

/** The ranges that end now, and every minute that the ledger has. */
export const NAMED = ['1h', '6h', '24h', '7d', 'all'] as const;
/** One of them. */
export type Named = (typeof NAMED)[number];

/** What a page shows. */
export type Range =
  | { readonly kind: 'named'; readonly name: Named }
  | { readonly kind: 'custom'; readonly fromMs: number; readonly toMs: number };

/** Without anything in the URL: the last hour. */
export const DEFAULT_RANGE: Range = { kind: 'named', name: '1h' };

const MINUTE_MS = 60_000;
/** How wide they are; `all` has no width of its own and counts as the longest. */
const WIDTH_MS: Readonly<Record<Named, number>> = {
  '1h': 3_600_000,
  '6h': 21_600_000,
  '24h': 86_400_000,
  '7d': 604_800_000,
  all: 604_800_000,
};

/** How many milliseconds a range covers. */
export function widthMs(range: Range): number {
  return range.kind === 'named' ? WIDTH_MS[range.name] : range.toMs - range.fromMs;
}

/** A custom range, widened to whole minutes; `null` when the ends are in the wrong order. */
export function customRange(fromMs: number, toMs: number): Range | null {
  const from = Math.floor(fromMs / MINUTE_MS) * MINUTE_MS;
  const to = Math.ceil(toMs / MINUTE_MS) * MINUTE_MS;
  return Number.isFinite(from) && Number.isFinite(to) && from >= 0 && from < to
    ? { kind: 'custom', fromMs: from, toMs: to }
    : null;
}

/** Reads the range from the URL; nonsense is the default. */
export function readRange(params: URLSearchParams): Range {
  const from = Date.parse(params.get('from') ?? '');
  const to = Date.parse(params.get('to') ?? '');
  const custom = customRange(from, to);
  if (custom !== null) return custom;
  const name = NAMED.find((known) => known === params.get('range'));
  return name === undefined ? DEFAULT_RANGE : { kind: 'named', name };
}

/** Writes the range into a copy of the URL's parameters, so that a link shows the same minutes. */
export function writeRange(params: URLSearchParams, range: Range): URLSearchParams {
  const next = new URLSearchParams(params);
  for (const name of ['range', 'from', 'to']) next.delete(name);
  if (range.kind === 'named') {
    next.set('range', range.name);
  } else {
    next.set('from', isoMinute(range.fromMs));
    next.set('to', isoMinute(range.toMs));
  }
  return next;
}

/** The range as the API's query. */
export function rangeQuery(range: Range): { range: Named } | { from: number; to: number } {
  return range.kind === 'named' ? { range: range.name } : { from: range.fromMs, to: range.toMs };
}

/** The range as a key of caches. */
export function rangeKey(range: Range): string {
  return range.kind === 'named' ? range.name : `${range.fromMs}-${range.toMs}`;
}

/** Whether the range ends in the past, so that nothing new is expected in it. */
export function isFixed(range: Range, nowMs: number): boolean {
  return range.kind === 'custom' && range.toMs <= nowMs;
}

/** How often the minutes of a range are fetched again, in ms: the longer, the less often. */
export function refreshMs(range: Range): number {
  // What is opened for old event times is often still growing, and seldom has many minutes.
  if (range.kind === 'named' && range.name === 'all') return 15_000;
  const hours = widthMs(range) / 3_600_000;
  if (hours <= 1) return 5_000;
  if (hours <= 6) return 15_000;
  return hours <= 24 ? 60_000 : 300_000;
}

function isoMinute(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 16)}Z`;
}
