import { describe, expect, it } from 'vitest';

import { customRange, DEFAULT_RANGE, isFixed, rangeQuery, readRange, refreshMs, widthMs, writeRange } from './range';

const at = (search: string) => readRange(new URLSearchParams(search));

describe('range', () => {
  it('is the last hour without or with nonsense', () => {
    for (const search of ['', 'range=2h', 'from=x&to=y', 'from=2026-01-02T00:00Z&to=2026-01-01T00:00Z']) {
      expect(at(search)).toEqual(DEFAULT_RANGE);
    }
  });

  it('goes into the URL and comes back', () => {
    const custom = customRange(Date.UTC(2026, 0, 2, 3, 4, 5), Date.UTC(2026, 0, 2, 4));
    if (custom === null) throw new Error('no range');
    for (const range of [custom, { kind: 'named', name: '7d' } as const, { kind: 'named', name: 'all' } as const]) {
      const params = writeRange(new URLSearchParams('q=web&range=6h&from=1'), range);
      expect(readRange(params)).toEqual(range);
      expect(params.get('q')).toBe('web');
    }
  });

  it('asks the API by name or by ends', () => {
    expect(rangeQuery(DEFAULT_RANGE)).toEqual({ range: '1h' });
    expect(rangeQuery({ kind: 'custom', fromMs: 60_000, toMs: 120_000 })).toEqual({ from: 60_000, to: 120_000 });
  });

  it('is fixed when its end is past', () => {
    expect(isFixed({ kind: 'custom', fromMs: 0, toMs: 60_000 }, 60_000)).toBe(true);
    expect(isFixed({ kind: 'custom', fromMs: 0, toMs: 60_000 }, 59_999)).toBe(false);
    expect(isFixed(DEFAULT_RANGE, 1e15)).toBe(false);
  });

  it('is fetched less often when it is long', () => {
    const rates = (['1h', '6h', '24h', '7d'] as const).map((name) => refreshMs({ kind: 'named', name }));
    expect(rates).toEqual([...rates].sort((a, b) => a - b));
    expect(widthMs({ kind: 'named', name: '7d' })).toBe(7 * 86_400_000);
  });
});
