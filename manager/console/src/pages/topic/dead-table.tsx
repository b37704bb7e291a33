/** Dead letters of a topic: which destination refused what, why and since when, and who keeps it. */
import { Table, Tooltip } from 'antd';
import type { ColumnType } from 'antd/es/table';

import type { DeadItem, DeadPage, DeadReason } from '../../api/types';
import { useI18n, type I18n } from '../../i18n/context';
import { Empty } from '../../ui/notice';
import { Ago, At } from '../../ui/time';

/** A reason with who tells it. */
interface Row {
  readonly item: DeadItem;
  readonly reason: DeadReason;
}

function columns({ t, fmt }: I18n, nowMs: number): ColumnType<Row>[] {
  return [
    { key: 'destination', title: t('dead.destination'), width: 140, ellipsis: true, render: (_, row) => row.item.destination },
    {
      key: 'reason',
      title: t('dead.reason'),
      width: 240,
      render: (_, { reason }) => (
        <Tooltip title={t('dead.reason.hint', { status: reason.status })}>
          <span>{reason.reason}</span>
        </Tooltip>
      ),
    },
    {
      key: 'letters',
      title: t('dead.letters'),
      width: 92,
      align: 'right',
      render: (_, { item, reason }) => (
        <span className="num" data-testid={`dead-${item.destination}-${reason.reason}`}>
          {fmt.count(reason.letters)}
        </span>
      ),
    },
    { key: 'first', title: t('dead.first'), width: 150, render: (_, { reason }) => <At ms={reason.first_ms} /> },
    { key: 'last', title: t('dead.last'), width: 110, render: (_, { reason }) => <Ago ms={reason.last_ms} nowMs={nowMs} /> },
    {
      key: 'node',
      title: t('dead.node'),
      width: 120,
      ellipsis: true,
      render: (_, { item }) =>
        item.state === 'live' ? (
          item.node
        ) : (
          <Tooltip title={t('dead.silent', { age: fmt.ago(nowMs - item.last_report_ms) })}>
            <span className="tone-warn">{item.node}</span>
          </Tooltip>
        ),
    },
    {
      key: 'room',
      title: t('dead.room'),
      width: 150,
      align: 'right',
      render: (_, { item }) => (
        <span className="num">{`${fmt.bytes(item.bytes)} / ${fmt.bytes(item.max_bytes)}`}</span>
      ),
    },
  ];
}

export function DeadTable({ page }: { page: DeadPage }) {
  const i18n = useI18n();
  const { t } = i18n;
  const rows = page.destinations.flatMap((item) => item.reasons.map((reason): Row => ({ item, reason })));
  const first = rows[0];
  if (first === undefined) {
    return <Empty title={t('dead.none')} next={t('dead.none.next')} height={240} />;
  }
  const { destination } = first.item;
  const command = `tributary ctl dead replay ADMIN --destination ${destination} --topic ${first.reason.topic}`;
  return (
    <>
      <p className="tools dim">{t('dead.act', { command })}</p>
      <Table<Row>
        size="small"
        rowKey={({ item, reason }) => `${item.destination} ${item.node} ${reason.topic} ${reason.reason}`}
        tableLayout="fixed"
        scroll={{ x: 'max-content' }}
        columns={columns(i18n, page.generated_at_ms)}
        dataSource={rows}
        pagination={rows.length > 50 ? { pageSize: 50, showSizeChanger: false } : false}
      />
    </>
  );
}
