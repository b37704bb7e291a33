/** A topic's minutes, newest first. */
import { DownloadOutlined } from '@ant-design/icons';
import { Button, Switch, Table, Tooltip } from 'antd';
import type { ColumnType } from 'antd/es/table';
import { useMemo } from 'react';

import type { MinuteCounts, TopicCounts } from '../../api/types';
import { useI18n } from '../../i18n/context';
import { download, fileName, toCsv } from '../../lib/csv';
import { COUNT_NAMES, isNothing } from '../../lib/minutes';
import { useParam } from '../../lib/url';
import { Count } from '../../ui/count';
import { Empty } from '../../ui/notice';
import { At } from '../../ui/time';
import { COUNTS } from '../topics/columns';

const PAGE_ROWS = 60;

function exportCsv(page: TopicCounts): void {
  const body = page.minutes.map(({ minute_ms: ms, counts }) => [
    new Date(ms).toISOString(),
    ...COUNT_NAMES.map((name) => counts[name]),
  ]);
  const rows = [['minute', ...COUNT_NAMES], ...body];
  download(fileName(page.topic, page.from_ms, page.to_ms), toCsv(rows));
}

export function MinutesTable({ page }: { page: TopicCounts }) {
  const { t } = useI18n();
  const [all, setAll] = useParam('all');
  const rows = useMemo(
    () => page.minutes.filter((minute) => all === '1' || !isNothing(minute.counts)).reverse(),
    [page.minutes, all],
  );
  const columns: ColumnType<MinuteCounts>[] = [
    {
      key: 'minute',
      title: t(page.step_minutes === 1 ? 'topic.minute' : page.step_minutes === 60 ? 'topic.hour' : 'topic.day'),
      width: 140,
      fixed: 'left',
      render: (_, minute) => <At ms={minute.minute_ms} minute />,
    },
    ...COUNTS.map(
      (name): ColumnType<MinuteCounts> => ({
        key: name,
        title: (
          <Tooltip title={t(`count.${name}.help`)}>
            <span>{t(`count.${name}`)}</span>
          </Tooltip>
        ),
        align: 'right',
        width: 92,
        render: (_, minute) => <Count name={name} value={minute.counts[name]} />,
      }),
    ),
  ];
  return (
    <>
      <div className="tools">
        <label className="switch">
          <Switch
            size="small"
            checked={all === '1'}
            onChange={(on) => {
              setAll(on ? '1' : '');
            }}
          />
          {t('topic.minutes.all')}
        </label>
        <span className="space" />
        <Button
          icon={<DownloadOutlined />}
          onClick={() => {
            exportCsv(page);
          }}
        >
          {t('topics.csv')}
        </Button>
      </div>
      {rows.length === 0 ? (
        <Empty title={t('topic.minutes.none')} next={t('topic.minutes.none.next')} height={240} />
      ) : (
        <Table<MinuteCounts>
          size="small"
          rowKey="minute_ms"
          tableLayout="fixed"
          className="figures-table"
          scroll={{ x: 'max-content' }}
          columns={columns}
          dataSource={rows}
          pagination={rows.length > PAGE_ROWS ? { pageSize: PAGE_ROWS, showSizeChanger: false } : false}
        />
      )}
    </>
  );
}
