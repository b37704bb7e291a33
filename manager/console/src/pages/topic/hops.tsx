/** The way of a topic's records: a count per hop, their differences, and what became of the rest. */
import { Tooltip } from 'antd';
import { Fragment } from 'react';

import type { Counts } from '../../api/types';
import { useI18n, type I18n } from '../../i18n/context';
import { countClass } from '../../ui/count';

const HOPS = ['read', 'sent', 'received', 'delivered'] as const;
type Hop = (typeof HOPS)[number];

/** What was read and is not delivered, and what should not be at all. */
const REST = ['in_flight', 'refused', 'dead', 'dropped', 'unexplained', 'doubled'] as const;
/** Shown where there is something. */
const SOMETIMES = ['purged', 'replayed', 'spilled', 'ahead'] as const;

/** The difference of a hop to the hop before, in words. */
function difference(counts: Counts, hop: Hop, before: Hop, { t, fmt }: I18n): string {
  const n = counts[hop] - counts[before];
  if (n === 0) return t('topic.hop.same');
  const words = { n: fmt.count(Math.abs(n)), hop: t(`count.${before}`) };
  return t(n < 0 ? 'topic.hop.less' : 'topic.hop.more', words);
}

export function Hops({ topic, counts }: { topic: string; counts: Counts }) {
  const i18n = useI18n();
  const { t, fmt } = i18n;
  const rest = [...REST, ...SOMETIMES.filter((name) => counts[name] !== 0)];
  return (
    <section className="panel hops-panel" aria-label={t('topic.hops')}>
      <ol className="hops">
        {HOPS.map((hop, index) => {
          const before = HOPS[index - 1];
          const delta = before === undefined ? 0 : counts[hop] - counts[before];
          return (
            <Fragment key={hop}>
              {before === undefined ? null : (
                <li className={delta === 0 ? 'hop-line' : 'hop-line hop-line-open'} aria-hidden="true">
                  <span className="num">{delta === 0 ? '=' : fmt.signed(delta)}</span>
                </li>
              )}
              <Tooltip
                title={
                  <>
                    {t(`count.${hop}.help`)}
                    {HOPS.slice(0, index).map((earlier) => (
                      <div key={earlier}>{`${t(`count.${earlier}`)}: ${difference(counts, hop, earlier, i18n)}`}</div>
                    ))}
                  </>
                }
              >
                <li className="hop" tabIndex={0}>
                  <span className="figure-label">{t(`count.${hop}`)}</span>
                  <b className="num" data-testid={`hop-${topic}-${hop}`}>
                    {fmt.count(counts[hop])}
                  </b>
                  <small className="dim" data-testid={hop === 'received' ? `hop-${topic}-duplicates_removed` : undefined}>
                    {hop === 'received' ? t('topic.hops.repeats', { n: counts.duplicates_removed }) : ' '}
                  </small>
                </li>
              </Tooltip>
            </Fragment>
          );
        })}
      </ol>
      <dl className="rest" aria-label={t('topic.balance.label')}>
        {rest.map((name) => (
          <Tooltip key={name} title={`${t(`count.${name}.help`)} ${t(counts.ahead === 0 ? 'topic.balance' : 'topic.balance.ahead')}`}>
            <div>
              <dt>{t(`count.${name}`)}</dt>
              <dd className={countClass(name, counts[name])} data-testid={`hop-${topic}-${name}`}>
                {fmt.count(counts[name])}
              </dd>
            </div>
          </Tooltip>
        ))}
      </dl>
    </section>
  );
}
