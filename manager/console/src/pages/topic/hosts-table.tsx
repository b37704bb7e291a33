/** The hosts that collect a topic. */
import { Table } from 'antd';
import type { ColumnType } from 'antd/es/table';

import type { TopicDetail, TopicHost } from '../../api/types';
import { useI18n, type I18n } from '../../i18n/context';
import { UNKNOWN } from '../../lib/format';
import { Empty } from '../../ui/notice';
import { NodeMark } from '../../ui/state';
import { Ago } from '../../ui/time';

function columns({ t, fmt }: I18n, nowMs: number): ColumnType<TopicHost>[] {
  return [
    { key: 'host', title: t('host.host'), width: 140, ellipsis: true, render: (_, host) => host.host },
    { key: 'state', title: t('host.state'), width: 86, render: (_, host) => <NodeMark state={host.state} /> },
    { key: 'zone', title: t('host.zone'), width: 80, ellipsis: true, render: (_, host) => host.zone },
    {
      key: 'last',
      title: t('host.lastReport'),
      width: 100,
      render: (_, host) => <Ago ms={host.last_report_ms} nowMs={nowMs} />,
    },
    {
      key: 'files',
      title: t('host.files'),
      width: 64,
      align: 'right',
      render: (_, host) => <span className="num">{fmt.count(host.files)}</span>,
    },
    {
      key: 'behind',
      title: t('host.behind'),
      width: 100,
      align: 'right',
      render: (_, host) => <span className="num">{fmt.count(host.bytes_behind)}</span>,
    },
    {
      key: 'oldest',
      title: t('host.oldest'),
      width: 116,
      align: 'right',
      render: (_, host) => (
        <span className="num">{host.oldest_unacked_ms > 0 ? fmt.age(host.oldest_unacked_ms) : UNKNOWN}</span>
      ),
    },
    { key: 'agent', title: t('host.agent'), width: 140, ellipsis: true, render: (_, host) => <code>{host.agent}</code> },
    {
      key: 'error',
      title: t('host.error'),
      width: 330,
      render: (_, host) =>
        host.last_error === '' ? <span className="dim">{UNKNOWN}</span> : <span className="tone-bad words">{host.last_error}</span>,
    },
  ];
}

export function HostsTable({ page }: { page: TopicDetail }) {
  const i18n = useI18n();
  const { t } = i18n;
  if (page.hosts.length === 0) {
    return <Empty title={t('host.none')} next={t('host.none.next')} height={240} />;
  }
  return (
    <Table<TopicHost>
      size="small"
      rowKey="agent"
      tableLayout="fixed"
      scroll={{ x: 'max-content' }}
      columns={columns(i18n, page.generated_at_ms)}
      dataSource={page.hosts}
      pagination={page.hosts.length > 50 ? { pageSize: 50, showSizeChanger: false } : false}
    />
  );
}
