/** Instants: local time, relative beside it, UTC on hover. */
import { Tooltip } from 'antd';

import { useI18n } from '../i18n/context';
import { UNKNOWN } from '../lib/format';

/** Local date and time; UTC on hover. */
export function At({ ms, minute = false }: { ms: number; minute?: boolean }) {
  const { fmt } = useI18n();
  if (ms <= 0) return <span className="dim">{UNKNOWN}</span>;
  return (
    <Tooltip title={fmt.utc(ms)}>
      <time className="num" dateTime={new Date(ms).toISOString()}>
        {minute ? fmt.minute(ms) : fmt.dateTime(ms)}
      </time>
    </Tooltip>
  );
}

/** How long before `nowMs` (the manager's clock, so that skew does not show); both times on hover. */
export function Ago({ ms, nowMs }: { ms: number; nowMs: number }) {
  const { fmt } = useI18n();
  if (ms <= 0) return <span className="dim">{UNKNOWN}</span>;
  return (
    <Tooltip title={`${fmt.dateTime(ms)} · ${fmt.utc(ms)}`}>
      <time className="num" dateTime={new Date(ms).toISOString()}>
        {fmt.ago(nowMs - ms)}
      </time>
    </Tooltip>
  );
}
