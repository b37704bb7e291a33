/**
 * The drawing of a chart, with ECharts. The only file that imports it; loaded when needed.
 *
 * All charts of a page share the cursor; dragging across one asks for that range.
 */
import { LineChart } from 'echarts/charts';
import { DataZoomComponent, GridComponent, ToolboxComponent, TooltipComponent } from 'echarts/components';
import * as echarts from 'echarts/core';
import { CanvasRenderer } from 'echarts/renderers';
import { useEffect, useEffectEvent, useRef } from 'react';

import { useI18n, type I18n } from '../i18n/context';
import type { Bucket } from '../lib/minutes';
import { usePreferences } from '../shell/preferences';
import type { Series } from './chart';

echarts.use([
  LineChart,
  GridComponent,
  TooltipComponent,
  ToolboxComponent,
  DataZoomComponent,
  CanvasRenderer,
]);

/** From here on the axis says the day too, in ms. */
const LONG_MS = 25 * 3_600_000;
/** From here on it says the date instead of the time, in ms. */
const VERY_LONG_MS = 30 * 86_400_000;

/** Charts of one group share the cursor. */
const GROUP = 'page';
/** Charts of a group zoom together; only the one that was dragged across asks for the range. */
let dragged: HTMLElement | null = null;
echarts.connect(GROUP);

interface Props {
  readonly points: readonly Bucket[];
  readonly series: readonly Series[];
  readonly height: number;
  readonly onZoom: (fromMs: number, toMs: number) => void;
}

/** A colour of `styles.css`, as the canvas needs it. */
function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export default function ChartCanvas({ points, series, height, onZoom }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const chart = useRef<echarts.ECharts>(undefined);
  const i18n = useI18n();
  const { dark } = usePreferences();
  const zoomed = useEffectEvent(onZoom);

  useEffect(() => {
    if (box.current === null) return;
    const made = echarts.init(box.current, null, { renderer: 'canvas' });
    made.group = GROUP;
    chart.current = made;
    made.on('datazoom', (event) => {
      const { batch } = event as { batch?: { startValue?: number; endValue?: number }[] };
      const ends = batch?.[0];
      if (ends?.startValue === undefined || ends.endValue === undefined) return;
      if (dragged !== made.getDom()) return;
      dragged = null;
      zoomed(ends.startValue, ends.endValue);
    });
    const observer = new ResizeObserver(() => {
      made.resize();
    });
    observer.observe(box.current);
    return () => {
      observer.disconnect();
      made.dispose();
    };
  }, []);

  useEffect(() => {
    const made = chart.current;
    if (made === undefined) return;
    made.setOption(option(points, series, i18n), { notMerge: true });
    made.dispatchAction({
      type: 'takeGlobalCursor',
      key: 'dataZoomSelect',
      dataZoomSelectActive: true,
    });
  }, [points, series, i18n, dark]);

  return (
    <div
      ref={box}
      className="canvas"
      style={{ height }}
      onPointerDown={() => {
        dragged = box.current;
      }}
    />
  );
}

function option(points: readonly Bucket[], series: readonly Series[], i18n: I18n): echarts.EChartsCoreOption {
  const text = colour('--dim');
  const line = colour('--line');
  const first = points[0];
  const last = points.at(-1);
  const width = first === undefined || last === undefined ? 0 : last.toMs - first.fromMs;
  // Of an hour of another day the clock alone would say nothing.
  const past = last !== undefined && Date.now() - last.toMs > LONG_MS;
  const label = (ms: number) => {
    if (width > VERY_LONG_MS) return i18n.fmt.minute(ms).slice(0, 10);
    if (past) return i18n.fmt.minute(ms);
    return width > LONG_MS ? i18n.fmt.minute(ms).slice(5) : i18n.fmt.clock(ms);
  };
  return {
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    grid: { left: 8, right: 12, top: 10, bottom: 4, containLabel: true },
    toolbox: { itemSize: 0, feature: { dataZoom: { yAxisIndex: 'none', brushStyle: { color: colour('--brush') } } } },
    xAxis: {
      type: 'time',
      min: first?.fromMs,
      max: last?.toMs,
      axisLine: { lineStyle: { color: line } },
      axisTick: { lineStyle: { color: line } },
      axisLabel: { color: text, fontSize: 11, hideOverlap: true, alignMinLabel: 'left', alignMaxLabel: 'right', formatter: label },
      splitLine: { show: false },
    },
    yAxis: {
      type: 'value',
      min: 0,
      minInterval: 1,
      splitNumber: 3,
      axisLabel: { color: text, fontSize: 11, formatter: (value: number) => i18n.fmt.count(value) },
      splitLine: { lineStyle: { color: line } },
    },
    tooltip: tooltip(points, series, i18n),
    series: series.map((s) => drawn(s, points)),
  };
}

/** A bucket stands at its start; a line steps, since a minute's figure holds for the whole minute. */
function drawn(series: Series, points: readonly Bucket[]) {
  const stroke = colour(`--series-${series.name}`);
  const data = points.map((point) => [point.fromMs, point.counts[series.name]]);
  const last = points.at(-1);
  if (last !== undefined) data.push([last.toMs, last.counts[series.name]]);
  const stacked = series.line === 'stack';
  return {
    type: 'line',
    step: 'end',
    symbol: 'none',
    data,
    silent: true,
    color: stroke,
    lineStyle: {
      width: series.line === 'dashed' ? 1.6 : stacked ? 0 : 1.2,
      type: series.line === 'dashed' ? [5, 3] : 'solid',
    },
    ...(stacked ? { stack: 'gap' } : {}),
    ...(series.line === 'dashed' ? { z: 4 } : { areaStyle: { opacity: stacked ? 0.75 : 0.16 } }),
  };
}

interface Hovered {
  readonly axisValue: number;
}

function tooltip(points: readonly Bucket[], series: readonly Series[], i18n: I18n) {
  const { fmt, t } = i18n;
  return {
    trigger: 'axis',
    confine: true,
    transitionDuration: 0,
    backgroundColor: colour('--raised'),
    borderColor: colour('--line'),
    textStyle: { color: colour('--text'), fontSize: 12 },
    axisPointer: { type: 'line', lineStyle: { color: colour('--dim'), type: 'solid' } },
    formatter: (hovered: Hovered | Hovered[]) => {
      const at = (Array.isArray(hovered) ? hovered[0] : hovered)?.axisValue;
      const point = points.findLast((candidate) => at !== undefined && candidate.fromMs <= at);
      if (point === undefined) return '';
      const box = document.createElement('div');
      const head = document.createElement('strong');
      const open = point.toMs > Date.now() ? ` · ${t('chart.open')}` : '';
      const end = point.toMs - point.fromMs > 3_600_000 ? fmt.minute(point.toMs) : fmt.clock(point.toMs);
      head.textContent = `${fmt.minute(point.fromMs)} – ${end}${open}`;
      box.append(head);
      for (const { name, label } of series) {
        const row = document.createElement('div');
        row.className = 'tip-row';
        const swatch = document.createElement('i');
        swatch.style.background = colour(`--series-${name}`);
        const value = document.createElement('b');
        value.textContent = fmt.count(point.counts[name]);
        row.append(swatch, t(label), value);
        box.append(row);
      }
      return box;
    },
  };
}
