/** Charts of records per minute: frame, states and legend; the drawing is a lazy chunk. */
import { lazy, Suspense, useMemo } from 'react';

import type { Counts, MinuteCounts } from '../api/types';
import type { Key } from '../i18n';
import { useI18n, type I18n } from '../i18n/context';
import { bucketMinutes, buckets, spanMinutes } from '../lib/minutes';
import { customRange, type Range } from '../lib/range';
import { Failed, Loading } from './notice';

const Canvas = lazy(() => import('./chart-canvas'));

/** The height of a chart's drawing, in px: reserved from the start, so that nothing jumps. */
const HEIGHT = 168;

/** Which counts a chart draws, and how. The same colour means the same count everywhere. */
export interface Series {
  readonly name: keyof Counts;
  readonly label: Key;
  readonly line: 'area' | 'dashed' | 'stack';
}

const FLOW: readonly Series[] = [
  { name: 'read', label: 'count.read', line: 'area' },
  { name: 'delivered', label: 'count.delivered', line: 'dashed' },
];
const GAP: readonly Series[] = [
  { name: 'unexplained', label: 'count.unexplained', line: 'stack' },
  { name: 'dropped', label: 'count.dropped', line: 'stack' },
  { name: 'refused', label: 'count.refused', line: 'stack' },
  { name: 'in_flight', label: 'count.in_flight', line: 'stack' },
];
/** Drawn where there are some. */
const DEAD: readonly Series[] = [
  { name: 'dead', label: 'count.dead', line: 'stack' },
  { name: 'purged', label: 'count.purged', line: 'stack' },
];

interface Props {
  readonly kind: 'flow' | 'gap';
  readonly all?: boolean;
  /** Absent while it loads. */
  readonly minutes: readonly MinuteCounts[] | undefined;
  /** How many minutes each of them covers. */
  readonly step: number;
  readonly error: Error | null;
  readonly retry: () => void;
  readonly range: Range;
  readonly setRange: (range: Range) => void;
}

/** What one point of a chart covers, in words. */
function perStep(minutes: number, t: I18n['t']): string {
  if (minutes % 1440 === 0) return t('chart.unit.days', { n: minutes / 1440 });
  return minutes % 60 === 0 ? t('chart.unit.hours', { n: minutes / 60 }) : t('chart.unit', { n: minutes });
}

/** One chart with its title, unit and legend. */
export function MinuteChart({ kind, all = false, minutes, step: least, error, retry, range, setRange }: Props) {
  const { t, fmt } = useI18n();
  const step = minutes === undefined ? 1 : bucketMinutes(spanMinutes(minutes, least), least);
  const points = useMemo(() => buckets(minutes ?? [], step), [minutes, step]);
  const series = useMemo(
    () => (kind === 'flow' ? FLOW : [...GAP, ...DEAD.filter((s) => points.some((p) => p.counts[s.name] !== 0))]),
    [kind, points],
  );
  const title = t(all ? `chart.${kind}.all` : `chart.${kind}`);
  const nothing = minutes !== undefined && points.every((p) => series.every((s) => p.counts[s.name] === 0));
  const words =
    range.kind === 'named'
      ? t(`range.words.${range.name}`)
      : t('range.words.custom', { from: fmt.minute(range.fromMs), to: fmt.minute(range.toMs) });
  return (
    <figure className="chart panel" aria-label={t('chart.label', { title, range: words })}>
      <figcaption>
        <strong>{title}</strong>
        <span className="dim">{perStep(step, t)}</span>
        <span className="legend">
          {series.map((s) => (
            <span key={s.name}>
              <i className={`swatch swatch-${s.line}`} style={{ color: `var(--series-${s.name})` }} />
              {t(s.label)}
            </span>
          ))}
        </span>
      </figcaption>
      <div className="chart-body" style={{ height: HEIGHT }}>
        {minutes === undefined ? (
          error === null ? (
            <Loading rows={4} height={HEIGHT} />
          ) : (
            <Failed error={error} retry={retry} height={HEIGHT} />
          )
        ) : (
          <Suspense fallback={<Loading rows={4} height={HEIGHT} />}>
            <Canvas
              points={points}
              series={series}
              height={HEIGHT}
              onZoom={(fromMs, toMs) => {
                const chosen = customRange(fromMs, toMs);
                if (chosen !== null) setRange(chosen);
              }}
            />
          </Suspense>
        )}
        {nothing ? <p className="chart-none">{t(kind === 'flow' ? 'chart.none' : 'chart.gap.none')}</p> : null}
      </div>
    </figure>
  );
}
