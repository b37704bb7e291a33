/** Losses: each with host, file, range and reason. */
import { Table, Tooltip } from 'antd';
import type { ColumnType } from 'antd/es/table';

import type { LossesPage, LossItem } from '../../api/types';
import { useI18n, type I18n } from '../../i18n/context';
import { Empty } from '../../ui/notice';
import { At } from '../../ui/time';

/** Reasons with a sentence of their own; others stand as the agent told them. */
const REASONS = [
  'truncated-unread',
  'deleted-unread',
  'truncated-unsent',
  'deleted-unsent',
  'changed-unsent',
  'spool-full',
  'line-truncated',
] as const;

function columns({ t, fmt }: I18n): ColumnType<LossItem>[] {
  return [
    { key: 'when', title: t('loss.when'), width: 140, render: (_, loss) => <At ms={loss.minute_ms} minute /> },
    {
      key: 'reason',
      title: t('loss.reason'),
      width: 140,
      render: (_, loss) => {
        const known = REASONS.find((reason) => reason === loss.reason);
        return (
          <Tooltip title={known === undefined ? t('reason.other') : t(`reason.${known}`)}>
            <span>{loss.reason}</span>
          </Tooltip>
        );
      },
    },
    {
      key: 'host',
      title: t('loss.host'),
      width: 120,
      ellipsis: true,
      render: (_, loss) => <Tooltip title={t('loss.agent', { agent: loss.agent })}>{loss.host}</Tooltip>,
    },
    {
      key: 'file',
      title: t('loss.file'),
      width: 260,
      render: (_, loss) => (
        <Tooltip title={t('loss.generation', { generation: loss.generation })}>
          <code>{loss.file}</code>
        </Tooltip>
      ),
    },
    {
      key: 'range',
      title: t('loss.range'),
      width: 200,
      align: 'right',
      render: (_, loss) => (
        <span className="num">
          {t('loss.range.value', { start: fmt.count(loss.start), end: fmt.count(loss.end) })}
        </span>
      ),
    },
    {
      key: 'size',
      title: t('loss.size'),
      width: 92,
      align: 'right',
      render: (_, loss) => <span className="num">{fmt.bytes(loss.end - loss.start)}</span>,
    },
    {
      key: 'records',
      title: t('loss.records'),
      width: 92,
      align: 'right',
      render: (_, loss) => <span className="num">{fmt.count(loss.records)}</span>,
    },
    { key: 'task', title: t('loss.task'), width: 140, ellipsis: true, render: (_, loss) => loss.task },
  ];
}

export function LossesTable({ page }: { page: LossesPage }) {
  const i18n = useI18n();
  const { t } = i18n;
  if (page.losses.length === 0) {
    return <Empty title={t('loss.none')} next={t('loss.none.next')} height={240} />;
  }
  return (
    <>
      {page.losses.length < page.total ? (
        <p className="tools dim">{t('loss.more', { n: page.losses.length, total: page.total })}</p>
      ) : null}
      <Table<LossItem>
        size="small"
        rowKey={(loss) => `${loss.agent} ${loss.generation} ${String(loss.start)} ${loss.reason} ${String(loss.minute_ms)}`}
        tableLayout="fixed"
        scroll={{ x: 'max-content' }}
        columns={columns(i18n)}
        dataSource={page.losses}
        pagination={page.losses.length > 50 ? { pageSize: 50, showSizeChanger: false } : false}
      />
    </>
  );
}
