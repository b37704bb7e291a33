/** Bus clusters: are agents spread evenly over the nodes, and the window that spreads them. */
import { Button, Tooltip } from 'antd';
import { useState } from 'react';

import { isOpen, useAudit, useClusters } from '../../api/queries';
import type { AuditItem, ClusterItem, Window } from '../../api/types';
import { useI18n, type I18n } from '../../i18n/context';
import { UNKNOWN } from '../../lib/format';
import { Failed } from '../../ui/notice';
import { SpreadMark } from '../../ui/state';
import { At } from '../../ui/time';
import { RebalancePlan } from './rebalance';

/** The panel; nothing where no bus node has reported. */
export function Clusters() {
  const { t } = useI18n();
  const clusters = useClusters();
  if (clusters.data === undefined) {
    if (clusters.error === null) return null;
    return (
      <section className="panel clusters">
        <Failed error={clusters.error} retry={() => void clusters.refetch()} />
      </section>
    );
  }
  const { clusters: list, generated_at_ms: nowMs } = clusters.data;
  if (list.length === 0) return null;
  return (
    <section className="panel clusters" aria-label={t('clusters.title')}>
      <h2>{t('clusters.title')}</h2>
      {list.map((cluster) => (
        <Cluster key={cluster.cluster} cluster={cluster} nowMs={nowMs} />
      ))}
      <Records />
    </section>
  );
}

/** Why no window can be opened; absent when one can. */
function refusal(cluster: ClusterItem, t: I18n['t']): string | undefined {
  if (isOpen(cluster.window)) return t('clusters.busy');
  if (cluster.nodes.filter((node) => node.takes_part).length < 2) return t('clusters.alone');
  return cluster.uneven ? undefined : t('clusters.nothing');
}

function Cluster({ cluster, nowMs }: { cluster: ClusterItem; nowMs: number }) {
  const { t } = useI18n();
  const [planned, setPlanned] = useState(false);
  const away = cluster.nodes.filter((node) => !node.takes_part).length;
  const why = refusal(cluster, t);
  const words = [
    t('clusters.nodes', { n: cluster.nodes.length }),
    t('clusters.connections', { n: cluster.connections }),
    t('clusters.share', { share: cluster.share }),
  ];
  return (
    <div className="cluster" data-testid={`cluster-${cluster.cluster}`}>
      <span className="cluster-name">{cluster.cluster}</span>
      <SpreadMark uneven={cluster.uneven} percent={cluster.spread_percent} />
      <div className="cluster-words">
        <span className="dim num">
          {words.join(' · ')}
          {away > 0 ? <span className="tone-warn"> · {t('clusters.away', { n: away })}</span> : null}
        </span>
        <NodeBars cluster={cluster} />
        {cluster.window ? <WindowWords window={cluster.window} nowMs={nowMs} /> : null}
      </div>
      <span className="space" />
      <Tooltip title={why ?? ''}>
        <Button
          size="small"
          disabled={why !== undefined}
          data-testid={`rebalance-${cluster.cluster}`}
          onClick={() => {
            setPlanned(true);
          }}
        >
          {t('clusters.rebalance')}
        </Button>
      </Tooltip>
      <RebalancePlan
        cluster={cluster}
        nowMs={nowMs}
        open={planned}
        onClose={() => {
          setPlanned(false);
        }}
      />
    </div>
  );
}

function NodeBars({ cluster }: { cluster: ClusterItem }) {
  const { fmt } = useI18n();
  const most = Math.max(1, ...cluster.nodes.map((node) => node.connections));
  return (
    <span className="bars">
      {cluster.nodes.map((node) => (
        <span key={node.id} className={node.takes_part ? 'bar' : 'bar bar-away'} data-testid={`has-${node.id}`}>
          {node.id}
          <i aria-hidden="true">
            <b style={{ width: `${(100 * node.connections) / most}%` }} />
          </i>
          <span className="num">{fmt.count(node.connections)}</span>
        </span>
      ))}
    </span>
  );
}

/** How a window goes, or went, in words. */
function windowWords(window: Window, nowMs: number, { t, fmt }: I18n): string {
  const done = window.nodes.reduce((sum, node) => sum + node.handed_over, 0);
  const all = window.nodes.reduce((sum, node) => sum + Math.max(0, node.had - window.share), 0);
  const endsMs = (window.begun_ms ?? window.opened_ms) + window.within_s * 1000;
  const silent = window.nodes.filter((node) => !node.knows && node.had <= window.share);
  switch (window.state) {
    case 'telling':
    case 'unknown':
      return t(`window.state.${window.state}`);
    case 'open':
      return t('window.state.open', { done, n: all, age: fmt.age(Math.max(1000, endsMs - nowMs)) });
    case 'even':
      return t('window.state.even', { done });
    case 'uneven':
      return t('window.state.uneven', { percent: window.spread_percent });
    case 'not_begun':
      return t('window.state.not_begun', { nodes: silent.map((node) => node.id).join(', ') });
  }
}

function WindowWords({ window, nowMs }: { window: Window; nowMs: number }) {
  const i18n = useI18n();
  const bad = window.state === 'uneven' || window.state === 'not_begun';
  return (
    <span className={bad ? 'tone-warn' : 'cluster-window'} data-testid={`window-${window.cluster}`} data-state={window.state}>
      {windowWords(window, nowMs, i18n)}
      {window.ended_ms === null || window.ended_ms === undefined ? null : (
        <>
          {' · '}
          <At ms={window.ended_ms} />
        </>
      )}
    </span>
  );
}

/** The last things that people asked for. */
function Records() {
  const { t } = useI18n();
  const audit = useAudit();
  const records = audit.data?.records ?? [];
  if (audit.data === undefined || records.length === 0) return null;
  const nowMs = audit.data.generated_at_ms;
  return (
    <details data-testid="records">
      <summary>
        {t('clusters.records')} ({records.length})
      </summary>
      <div className="work">
        <table>
          <thead>
            <tr>
              <th>{t('record.at')}</th>
              <th>{t('record.who')}</th>
              <th>{t('record.act')}</th>
              <th>{t('record.outcome')}</th>
            </tr>
          </thead>
          <tbody>
            {records.map((record) => (
              <Recorded key={record.id} record={record} nowMs={nowMs} />
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}

function Recorded({ record, nowMs }: { record: AuditItem; nowMs: number }) {
  const i18n = useI18n();
  const { t, fmt } = i18n;
  const { window } = record;
  const act = window
    ? t('record.act.rebalance', { subject: record.subject, age: fmt.age(window.within_s * 1000) })
    : `${record.act} ${record.subject}`;
  return (
    <tr>
      <td>
        <At ms={record.at_ms} />
      </td>
      <td>{record.who}</td>
      <td>{act}</td>
      <td>{window ? windowWords(window, nowMs, i18n) : UNKNOWN}</td>
    </tr>
  );
}
