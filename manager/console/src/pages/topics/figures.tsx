/** The figures above the topics: all topics together, within the range. */
import { Tooltip } from 'antd';
import type { ReactNode } from 'react';

import type { Counts, TopicSummary } from '../../api/types';
import { useI18n } from '../../i18n/context';
import { add, NO_COUNTS } from '../../lib/minutes';
import { countClass } from '../../ui/count';

/** One figure: what, how much, in proportion to what. */
export function Figure({ label, value, unit, note, hint = '', className = 'num', testId }: {
  label: string;
  value: ReactNode;
  unit?: string;
  note?: string;
  hint?: string;
  className?: string;
  testId?: string;
}) {
  return (
    <Tooltip title={hint}>
      <div className="figure">
        <span className="figure-label">{label}</span>
        <span className="figure-value">
          <b className={className} data-testid={testId}>
            {value}
          </b>
          {unit === undefined ? null : <small>{unit}</small>}
        </span>
        {note === undefined ? null : <span className="figure-note num">{note}</span>}
      </div>
    </Tooltip>
  );
}

/** One topic's surplus of told losses must not hide the loss of another. */
function withoutSurplus(counts: Counts): Counts {
  return { ...counts, unexplained: Math.max(0, counts.unexplained) };
}

/** The strip; `topics` is absent while it loads. */
export function Figures({ topics }: { topics: readonly TopicSummary[] | undefined }) {
  const { t, fmt } = useI18n();
  const list = topics ?? [];
  const counts = list.reduce<Counts>((sum, topic) => add(sum, withoutSurplus(topic.counts)), NO_COUNTS);
  const known = topics !== undefined;
  const rate = (name: 'read_per_s' | 'delivered_per_s') =>
    fmt.rate(known ? list.reduce((sum, topic) => sum + topic.rates[name], 0) : undefined);
  const count = (value: number) => fmt.count(known ? value : undefined);
  const seconds = list[0]?.rates.window_s;
  const window = seconds === undefined ? ' ' : t('figures.window', { seconds });
  const share = (value: number, whole: number, some: 'ofRead' | 'ofDelivered', none: 'noneRead' | 'noneDelivered') =>
    !known ? ' ' : whole > 0 ? t(`figures.${some}`, { ppm: fmt.ppm(value, whole), n: whole }) : t(`figures.${none}`);
  const perSecond = t('figures.perSecond');
  return (
    <section className="figures panel">
      <Figure label={t('figures.in')} value={rate('read_per_s')} unit={perSecond} note={window} testId="figure-in" />
      <Figure label={t('figures.out')} value={rate('delivered_per_s')} unit={perSecond} note={window} testId="figure-out" />
      <Figure
        label={t('figures.inFlight')}
        value={count(counts.in_flight)}
        note={known ? t('figures.held') : ' '}
        hint={t('count.in_flight.help')}
        testId="figure-in_flight"
      />
      <Figure
        label={t('figures.unexplained')}
        value={count(counts.unexplained)}
        className={countClass('unexplained', counts.unexplained).replace(' zero', '')}
        note={share(counts.unexplained, counts.read, 'ofRead', 'noneRead')}
        hint={t('count.unexplained.help')}
        testId="figure-unexplained"
      />
      <Figure
        label={t('figures.doubled')}
        value={count(counts.doubled)}
        className={countClass('doubled', counts.doubled).replace(' zero', '')}
        note={share(counts.doubled, counts.delivered, 'ofDelivered', 'noneDelivered')}
        hint={t('count.doubled.help')}
        testId="figure-doubled"
      />
    </section>
  );
}
