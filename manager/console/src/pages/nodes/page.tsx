/** Nodes: which agents and bus nodes are there, and which are unwell? */
import { Table } from 'antd';
import type { ColumnType } from 'antd/es/table';
import { useMemo, useState } from 'react';

import { useHidden, type Live } from '../../api/live';
import { useNodes } from '../../api/queries';
import type { NodeItem, NodesPage } from '../../api/types';
import { useI18n, type I18n } from '../../i18n/context';
import { UNKNOWN } from '../../lib/format';
import { useParam } from '../../lib/url';
import { LiveBadge } from '../../ui/live-badge';
import { Empty, Failed, Loading } from '../../ui/notice';
import { useRows } from '../../ui/rows';
import { Search } from '../../ui/search';
import { DestinationMark, NodeMark } from '../../ui/state';
import { Ago, At } from '../../ui/time';
import { Figure } from '../topics/figures';
import { Clusters } from './clusters';
import { NodeWork } from './work';

export default function Nodes() {
  const { t } = useI18n();
  const hidden = useHidden();
  const nodes = useNodes();
  const live: Live = { link: hidden ? 'paused' : 'live', heardMs: 0 };
  return (
    <div className="page">
      <header className="page-head">
        <h1>{t('nodes.title')}</h1>
        <span className="space" />
        <LiveBadge live={live} updatedMs={nodes.dataUpdatedAt} />
      </header>
      {nodes.data === undefined ? (
        <div className="panel">
          {nodes.error === null ? (
            <Loading rows={12} height={520} />
          ) : (
            <Failed error={nodes.error} retry={() => void nodes.refetch()} height={520} />
          )}
        </div>
      ) : nodes.data.nodes.length === 0 ? (
        <div className="panel">
          <Empty title={t('nodes.empty')} next={t('nodes.empty.next')} height={420} />
        </div>
      ) : (
        <>
          <NodeFigures page={nodes.data} />
          <Clusters />
          <NodesTable page={nodes.data} />
        </>
      )}
    </div>
  );
}

function NodeFigures({ page }: { page: NodesPage }) {
  const { t, fmt } = useI18n();
  const count = (want: (node: NodeItem) => boolean) => page.nodes.filter(want).length;
  const silent = count((node) => node.state !== 'live');
  const down = page.nodes.flatMap((node) => node.destinations).filter((d) => d.state !== 'up').length;
  return (
    <section className="figures panel">
      <Figure label={t('nodes.agents')} value={fmt.count(count((node) => node.part === 'agent'))} />
      <Figure label={t('nodes.buses')} value={fmt.count(count((node) => node.part === 'bus'))} />
      <Figure
        label={t('nodes.silent')}
        value={fmt.count(silent)}
        className={silent > 0 ? 'num loud tone-warn' : 'num'}
      />
      <Figure
        label={t('nodes.destinationsDown')}
        value={fmt.count(down)}
        className={down > 0 ? 'num loud tone-bad' : 'num'}
      />
    </section>
  );
}

function keyOf(node: NodeItem): string {
  return `${node.part} ${node.id}`;
}

function NodesTable({ page }: { page: NodesPage }) {
  const i18n = useI18n();
  const { t } = i18n;
  const [query, setQuery] = useParam('q');
  const [open, setOpen] = useState<readonly string[]>([]);
  const rows = useMemo(() => {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    return page.nodes.filter((node) => {
      const text = `${node.host} ${node.id} ${node.zone} ${node.cluster} ${node.part} ${node.state}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }, [page.nodes, query]);
  const toggle = (key: string) => {
    setOpen((old) => (old.includes(key) ? old.filter((known) => known !== key) : [...old, key]));
  };
  const { selected, select } = useRows(rows.map(keyOf), toggle);
  const total = page.nodes.length;
  return (
    <section className="panel" aria-label={t('nodes.table')}>
      <div className="tools">
        <Search
          value={query}
          placeholder={t('nodes.search')}
          onChange={setQuery}
          onEnter={() => {
            const first = rows[0];
            if (first !== undefined) select(keyOf(first));
          }}
        />
        <span className="dim num">
          {rows.length === total ? t('nodes.shown', { n: total }) : t('nodes.shownOf', { n: rows.length, total })}
        </span>
      </div>
      {rows.length === 0 ? (
        <Empty search height={240} title={t('nodes.noMatch', { query })} next={t('topics.noMatch.next')} />
      ) : (
        <Table<NodeItem>
          size="small"
          rowKey={keyOf}
          tableLayout="fixed"
          scroll={{ x: 'max-content' }}
          columns={columns(i18n, page.generated_at_ms)}
          dataSource={rows}
          pagination={rows.length > 100 ? { pageSize: 100, showSizeChanger: false } : false}
          rowClassName={(node) => (keyOf(node) === selected ? 'row-selected' : 'row')}
          onRow={(node) => ({
            onClick: () => {
              toggle(keyOf(node));
            },
          })}
          expandable={{
            expandedRowKeys: [...open],
            onExpand: (_, node) => {
              toggle(keyOf(node));
            },
            expandedRowRender: (node) => <NodeWork node={node} />,
          }}
        />
      )}
    </section>
  );
}

function Work({ node }: { node: NodeItem }) {
  const { t } = useI18n();
  if (node.part === 'bus') {
    return (
      <span className="marks">
        {node.destinations.map((d) => (
          <DestinationMark key={d.name} name={d.name} state={d.state} hint={d.detail} />
        ))}
      </span>
    );
  }
  const errors = node.tasks.filter((task) => task.last_error !== '').length;
  return (
    <>
      {t('nodes.tasks', { n: node.tasks.length })}
      {node.config?.fault ? <span className="tone-bad"> · {t('nodes.config.refused')}</span> : null}
      {errors > 0 ? <span className="tone-bad"> · {t('nodes.tasks.errors', { n: errors })}</span> : null}
    </>
  );
}

function columns({ t, fmt }: I18n, nowMs: number): ColumnType<NodeItem>[] {
  const sum = (node: NodeItem, name: 'files' | 'bytes_behind') =>
    node.part === 'agent' ? node.tasks.reduce((all, task) => all + task[name], 0) : undefined;
  const figure = (key: string, title: string, width: number, text: (node: NodeItem) => string): ColumnType<NodeItem> => ({
    key,
    title,
    width,
    align: 'right',
    render: (_, node) => <span className="num">{text(node)}</span>,
  });
  const words = (key: string, title: string, width: number, text: (node: NodeItem) => string): ColumnType<NodeItem> => ({
    key,
    title,
    width,
    ellipsis: true,
    render: (_, node) => text(node) || UNKNOWN,
  });
  return [
    words('host', t('host.host'), 150, (node) => node.host),
    words('part', t('nodes.part'), 72, (node) => t(`nodes.part.${node.part}`)),
    {
      key: 'state',
      title: t('host.state'),
      width: 86,
      render: (_, node) => <NodeMark state={node.state} hint={`${t('nodes.since')} ${fmt.dateTime(node.since_ms)}`} />,
    },
    { key: 'last', title: t('host.lastReport'), width: 104, render: (_, node) => <Ago ms={node.last_report_ms} nowMs={nowMs} /> },
    { key: 'work', title: t('nodes.work'), width: 180, render: (_, node) => <Work node={node} /> },
    figure('files', t('nodes.files'), 64, (node) => fmt.count(sum(node, 'files'))),
    figure('behind', t('nodes.behind'), 86, (node) => fmt.bytes(sum(node, 'bytes_behind'))),
    figure('connections', t('nodes.connections'), 92, (node) => fmt.count(node.part === 'bus' ? node.connections : undefined)),
    figure('memory', t('nodes.memory'), 86, (node) => fmt.bytes(node.memory_bytes)),
    figure('skew', t('nodes.skew'), 92, (node) => `${fmt.signed(node.skew_ms)} ms`),
    figure('restarts', t('nodes.restarts'), 76, (node) => fmt.count(node.restarts)),
    words('zone', t('nodes.zone'), 80, (node) => node.zone),
    words('cluster', t('nodes.cluster'), 90, (node) => node.cluster),
    { key: 'since', title: t('nodes.since'), width: 150, render: (_, node) => <At ms={node.since_ms} /> },
    words('software', t('nodes.software'), 150, (node) => node.software),
    { key: 'id', title: t('nodes.id'), width: 150, ellipsis: true, render: (_, node) => <code>{node.id}</code> },
  ];
}
