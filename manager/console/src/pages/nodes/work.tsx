/** What one node does: an agent's tasks, a bus node's destinations. */
import { useDead } from '../../api/queries';
import type { NodeConfig, NodeItem } from '../../api/types';
import { useI18n } from '../../i18n/context';
import { UNKNOWN } from '../../lib/format';
import { DestinationMark } from '../../ui/state';
import { At } from '../../ui/time';

/** Which configuration counts, and why the last one does not. */
function Config({ config }: { config: NodeConfig }) {
  const { t, fmt } = useI18n();
  return (
    <p>
      {t('nodes.config', { version: config.version })} <span className="dim">{fmt.dateTime(config.applied_ms)}</span>
      {config.fault === '' ? null : (
        <span className="tone-bad" title={fmt.dateTime(config.fault_ms)}>
          {' '}
          · {t('nodes.config.refused')}: {config.fault}
        </span>
      )}
    </p>
  );
}

/** What the node's destinations refuse for good. */
function Dead({ node }: { node: string }) {
  const { t, fmt } = useI18n();
  const dead = useDead();
  const kept = dead.data?.destinations.filter((item) => item.node === node) ?? [];
  if (kept.length === 0) return null;
  return (
    <table data-testid={`dead-of-${node}`}>
      <thead>
        <tr>
          <th>{t('nodes.destination')}</th>
          <th>{t('count.topic')}</th>
          <th>{t('dead.reason')}</th>
          <th className="right">{t('topic.tab.dead')}</th>
          <th>{t('dead.first')}</th>
          <th>{t('dead.last')}</th>
        </tr>
      </thead>
      <tbody>
        {kept.flatMap((item) =>
          item.reasons.map((reason) => (
            <tr key={`${item.destination} ${reason.topic} ${reason.reason}`}>
              <td>{item.destination}</td>
              <td>{reason.topic}</td>
              <td>{reason.reason}</td>
              <td className="right num">{fmt.count(reason.letters)}</td>
              <td>
                <At ms={reason.first_ms} />
              </td>
              <td>
                <At ms={reason.last_ms} />
              </td>
            </tr>
          )),
        )}
      </tbody>
    </table>
  );
}

export function NodeWork({ node }: { node: NodeItem }) {
  const { t, fmt } = useI18n();
  if (node.tasks.length === 0 && node.destinations.length === 0 && !node.config) return <p className="dim">{t('nodes.nothing')}</p>;
  return (
    <div className="work">
      {node.config ? <Config config={node.config} /> : null}
      {node.tasks.length === 0 ? null : (
        <table>
          <thead>
            <tr>
              <th>{t('nodes.task')}</th>
              <th>{t('count.topic')}</th>
              <th className="right">{t('host.files')}</th>
              <th className="right">{t('host.behind')}</th>
              <th className="right">{t('host.oldest')}</th>
              <th>{t('host.error')}</th>
            </tr>
          </thead>
          <tbody>
            {node.tasks.map((task) => (
              <tr key={task.task}>
                <td>{task.task}</td>
                <td>{task.topic}</td>
                <td className="right num">{fmt.count(task.files)}</td>
                <td className="right num">{fmt.count(task.bytes_behind)}</td>
                <td className="right num">{task.oldest_unacked_ms > 0 ? fmt.age(task.oldest_unacked_ms) : UNKNOWN}</td>
                <td className={task.last_error === '' ? 'dim' : 'tone-bad'}>{task.last_error || UNKNOWN}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {node.destinations.length === 0 ? null : (
        <table>
          <thead>
            <tr>
              <th>{t('nodes.destination')}</th>
              <th>{t('nodes.kind')}</th>
              <th>{t('nodes.detail')}</th>
            </tr>
          </thead>
          <tbody>
            {node.destinations.map((d) => (
              <tr key={d.name}>
                <td>
                  <DestinationMark name={d.name} state={d.state} />
                </td>
                <td>{d.kind}</td>
                <td>{d.detail || UNKNOWN}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {node.part === 'bus' ? <Dead node={node.id} /> : null}
    </div>
  );
}
