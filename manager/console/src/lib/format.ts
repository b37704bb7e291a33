/**
 * Figures, sizes and times as text. Pure; the reader's formatter is in `useI18n().fmt`.
 *
 * Counts are absolute and never rounded. `-` is unknown, `0` is zero.
 */
import type { Key, Params } from '../i18n';

/** What stands for an unknown figure. */
export const UNKNOWN = '-';

type Translate = (key: Key, params?: Params) => string;
type Figure = number | null | undefined;

/** Writes figures and times for one reader. */
export interface Formatter {
  /** An absolute count with thousands separators. */
  count: (value: Figure) => string;
  /** A difference with its sign. */
  signed: (value: number) => string;
  /** A rate: whole from 100 on, one decimal from 10 on, two below. */
  rate: (value: Figure) => string;
  /** A share in parts per million, never rounded to 0 or to all. */
  ppm: (part: number, whole: number) => string;
  /** A size with a binary unit. */
  bytes: (value: Figure) => string;
  /** A duration in the largest unit that leaves at least 1. */
  age: (ms: number) => string;
  /** How long ago, in words. */
  ago: (ms: number) => string;
  /** Local date and time to the second. */
  dateTime: (ms: Figure) => string;
  /** Local time of day to the minute. */
  clock: (ms: number) => string;
  /** Local date and time to the minute. */
  minute: (ms: number) => string;
  /** The same instant in UTC, for the hover. */
  utc: (ms: number) => string;
}

const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Makes the formatter of a locale and a time zone (the browser's when absent). */
export function formatter(locale: string, t: Translate, timeZone?: string): Formatter {
  const zone = timeZone === undefined ? {} : { timeZone };
  const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
  const one = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const two = new Intl.NumberFormat(locale, { maximumFractionDigits: 2 });
  const sign = new Intl.NumberFormat(locale, { maximumFractionDigits: 0, signDisplay: 'exceptZero' });
  const day = { year: 'numeric', month: '2-digit', day: '2-digit' } as const;
  const hm = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' } as const;
  // The Swedish locale writes ISO dates, which read alike in every language.
  const dateTime = new Intl.DateTimeFormat('sv-SE', { ...day, ...hm, second: '2-digit', ...zone });
  const minute = new Intl.DateTimeFormat('sv-SE', { ...day, ...hm, ...zone });
  const clock = new Intl.DateTimeFormat('sv-SE', { ...hm, ...zone });

  const age = (ms: number): string => {
    const seconds = Math.max(0, Math.round(ms / 1000));
    if (seconds < 120) return t('age.seconds', { value: seconds });
    if (seconds < 7200) return t('age.minutes', { value: Math.floor(seconds / 60) });
    if (seconds < 172_800) return t('age.hours', { value: Math.floor(seconds / 3600) });
    return t('age.days', { value: Math.floor(seconds / 86_400) });
  };

  return {
    count: (value) => (known(value) ? whole.format(value) : UNKNOWN),
    signed: (value) => sign.format(value).replace('-', '−'),
    rate: (value) => {
      if (!known(value)) return UNKNOWN;
      const format = value >= 100 || value === 0 ? whole : value >= 10 ? one : two;
      return value > 0 && value < 0.01 ? `<${two.format(0.01)}` : format.format(value);
    },
    ppm: (part, all) => ppm(part, all, whole, two),
    bytes: (value) => (known(value) ? bytes(value, whole, one) : UNKNOWN),
    age,
    ago: (ms) => (ms < 1500 ? t('age.now') : t('age.ago', { age: age(ms) })),
    dateTime: (ms) => (known(ms) ? dateTime.format(ms) : UNKNOWN),
    clock: (ms) => clock.format(ms),
    minute: (ms) => minute.format(ms),
    utc: (ms) => t('time.utc', { time: new Date(ms).toISOString().slice(0, 19).replace('T', ' ') }),
  };
}

function known(value: Figure): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

function ppm(part: number, all: number, whole: Intl.NumberFormat, two: Intl.NumberFormat): string {
  if (all <= 0) return UNKNOWN;
  const share = (part / all) * 1e6;
  if (part === 0) return '0';
  if (share < 0.01) return `<${two.format(0.01)}`;
  if (part < all && share > 999_999) return `>${whole.format(999_999)}`;
  return (share < 100 ? two : whole).format(share);
}

function bytes(value: number, whole: Intl.NumberFormat, one: Intl.NumberFormat): string {
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < SIZES.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${(unit === 0 ? whole : one).format(size)} ${SIZES[unit] ?? 'B'}`;
}
