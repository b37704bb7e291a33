/** What a rebalance of a bus cluster would do, node by node, and the word that starts it. */
import { Alert, Modal, Segmented } from 'antd';
import { useState } from 'react';

import { ApiError } from '../../api/client';
import { useOpenWindow } from '../../api/queries';
import type { ClusterItem } from '../../api/types';
import { useI18n } from '../../i18n/context';
import { UNKNOWN } from '../../lib/format';

/** Over how many minutes the hand-over may be spread. */
const MINUTES = [1, 5, 15, 60];

type Node = ClusterItem['nodes'][number];

export function RebalancePlan({ cluster, nowMs, open, onClose }: {
  cluster: ClusterItem;
  nowMs: number;
  open: boolean;
  onClose: () => void;
}) {
  const { t } = useI18n();
  const [minutes, setMinutes] = useState(1);
  const window = useOpenWindow(cluster.cluster);
  const parts = cluster.nodes.filter((node) => node.takes_part);
  const close = () => {
    window.reset();
    onClose();
  };
  const confirm = () => {
    // What stands in the table is what is asked for: a node that has gone meanwhile is refused.
    window.mutate({ within_s: minutes * 60, nodes: parts.map((node) => node.id) }, { onSuccess: close });
  };
  const all = parts.reduce((sum, node) => sum + node.hands_over, 0);
  return (
    <Modal
      open={open}
      width={620}
      title={t('window.title', { cluster: cluster.cluster })}
      okText={t('window.open', { n: all })}
      cancelText={t('window.cancel')}
      okButtonProps={{ loading: window.isPending, disabled: all === 0 }}
      onOk={confirm}
      onCancel={close}
    >
      <div className="plan-body" data-testid="plan">
        <p>{t('window.what')}</p>
        <Plan cluster={cluster} nowMs={nowMs} />
        <div className="plan-within">
          <span className="dim">{t('window.within')}</span>
          <Segmented
            value={minutes}
            onChange={setMinutes}
            options={MINUTES.map((n) => ({ value: n, label: t('window.minutes', { n }) }))}
          />
        </div>
        {window.error === null ? null : <Refused error={window.error} />}
      </div>
    </Modal>
  );
}

function Plan({ cluster, nowMs }: { cluster: ClusterItem; nowMs: number }) {
  const { t, fmt } = useI18n();
  const out = (node: Node) =>
    node.state === 'live'
      ? t('window.out.notReady', { why: node.not_ready })
      : t('window.out.silent', { age: fmt.age(nowMs - node.last_report_ms) });
  const will = (node: Node) => (node.hands_over > 0 ? cluster.share : `≤ ${fmt.count(cluster.share)}`);
  return (
    <table className="plan">
      <thead>
        <tr>
          <th>{t('window.node')}</th>
          <th className="right">{t('window.has')}</th>
          <th className="right">{t('window.will')}</th>
          <th className="right">{t('window.hands')}</th>
        </tr>
      </thead>
      <tbody>
        {cluster.nodes.map((node) =>
          node.takes_part ? (
            <tr key={node.id}>
              <td>{node.id}</td>
              <td className="right num">{fmt.count(node.connections)}</td>
              <td className="right num">{will(node)}</td>
              <td className={node.hands_over > 0 ? 'right num loud' : 'right num zero'}>{fmt.count(node.hands_over)}</td>
            </tr>
          ) : (
            <tr key={node.id} className="dim">
              <td>{node.id}</td>
              <td className="right num">{node.state === 'live' ? fmt.count(node.connections) : UNKNOWN}</td>
              <td className="right" colSpan={2}>
                {out(node)}
              </td>
            </tr>
          ),
        )}
      </tbody>
    </table>
  );
}

/** Why nothing was opened, in the manager's words. */
function Refused({ error }: { error: Error }) {
  const { t } = useI18n();
  const failure = error instanceof ApiError ? error.failure : null;
  const words = failure !== null && 'message' in failure ? failure.message : t('show.error.unreachable');
  return <Alert type="error" showIcon title={t('window.failed')} description={words} data-testid="refused" />;
}
