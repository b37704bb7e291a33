/** Whether the figures are live, polled, paused or stale; with their age when they are stale. */
import { Tooltip } from 'antd';

import { POLL_MS, STALE_MS, type Live } from '../api/live';
import { useI18n } from '../i18n/context';
import { useNow } from '../lib/now';

interface Props {
  readonly live: Live;
  /** The browser's clock when the figures came, in ms; 0 before the first. */
  readonly updatedMs: number;
}

/** The badge in a page's head. */
export function LiveBadge({ live, updatedMs }: Props) {
  const { t, fmt } = useI18n();
  const now = useNow(1_000);
  const lastMs = Math.max(updatedMs, live.heardMs);
  const age = now - lastMs;
  const seconds = POLL_MS / 1000;
  const waits = live.link === 'live' || live.link === 'polling' || live.link === 'connecting';
  const stale = waits && lastMs > 0 && age > STALE_MS;
  const kind = stale ? 'stale' : live.link;
  const hint = t(`live.${kind}.hint`, { seconds });
  const asOf = lastMs > 0 ? t('live.asOf', { time: fmt.dateTime(lastMs) }) : '';
  return (
    <Tooltip title={`${hint} ${asOf}`}>
      <span className={`live live-${kind}`} role="status" data-testid="live" data-link={kind}>
        <i aria-hidden="true" />
        {t(`live.${kind}`, { seconds, age: fmt.age(age) })}
      </span>
    </Tooltip>
  );
}
