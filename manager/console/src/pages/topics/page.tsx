/** Topics: is everything whole and on time? Figures, charts, the table with counts per hop. */
import { DownloadOutlined, SettingOutlined } from '@ant-design/icons';
import { Button, Checkbox, Popover, Table, Tooltip } from 'antd';
import { useMemo } from 'react';
import { useLocation, useNavigate } from 'react-router';

import { useLive } from '../../api/live';
import { MAX_CHART_TOPICS, useAllMinutes, useTopics } from '../../api/queries';
import type { TopicsPage, TopicSummary } from '../../api/types';
import { useI18n, type I18n } from '../../i18n/context';
import { download, fileName, toCsv } from '../../lib/csv';
import { knownState } from '../../lib/states';
import { useStored } from '../../lib/stored';
import { useParam, useRange } from '../../lib/url';
import { isOutside } from '../../lib/why';
import { MinuteChart } from '../../ui/chart';
import { LiveBadge } from '../../ui/live-badge';
import { Empty, Failed, Loading } from '../../ui/notice';
import { RangePicker } from '../../ui/range-picker';
import { useRows } from '../../ui/rows';
import { Search } from '../../ui/search';
import { COLUMNS, compare, DEFAULT_COLUMNS, isColumn, tableColumns, valueOf, type Column } from './columns';
import { Figures } from './figures';

/** Rows of one page of the table. */
const PAGE_ROWS = 50;

const isColumns = (value: unknown): value is Column[] => Array.isArray(value) && value.every(isColumn);

export default function Topics() {
  const { t } = useI18n();
  const [range, setRange] = useRange();
  const live = useLive(range);
  const topics = useTopics(range, live.link);
  const page = topics.data;
  return (
    <div className="page">
      <header className="page-head">
        <h1>{t('topics.title')}</h1>
        <span className="space" />
        <LiveBadge live={live} updatedMs={topics.dataUpdatedAt} />
        <RangePicker range={range} setRange={setRange} />
      </header>
      <Figures topics={page?.topics} />
      {page === undefined ? (
        topics.error === null ? (
          <div className="panel">
            <Loading rows={12} height={520} />
          </div>
        ) : (
          <div className="panel">
            <Failed error={topics.error} retry={() => void topics.refetch()} height={520} />
          </div>
        )
      ) : page.topics.length === 0 ? (
        <div className="panel">
          <Empty title={t('topics.empty')} next={t('topics.empty.next')} height={420} />
        </div>
      ) : (
        <>
          <Charts page={page} />
          <TopicsTable page={page} />
        </>
      )}
    </div>
  );
}

/** The charts add up the busiest topics: with more of them the manager would work for the picture. */
function Charts({ page }: { page: TopicsPage }) {
  const [range, setRange] = useRange();
  const names = useMemo(
    () =>
      [...page.topics]
        .sort((a, b) => b.counts.read - a.counts.read || a.topic.localeCompare(b.topic))
        .slice(0, MAX_CHART_TOPICS)
        .map((topic) => topic.topic)
        .sort(),
    [page.topics],
  );
  const all = names.length === page.topics.length;
  const common = { all, ...useAllMinutes(names, range), range, setRange };
  return (
    <div className="charts">
      <MinuteChart kind="flow" {...common} />
      <MinuteChart kind="gap" {...common} />
    </div>
  );
}

/** The topics that match a search in their names or states, in English or the reader's language. */
function matching(topics: readonly TopicSummary[], query: string, t: I18n['t']): TopicSummary[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return topics.filter((topic) => {
    const text = `${topic.topic} ${topic.state} ${t(`state.${knownState(topic.state) ?? 'unknown'}`)}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

function useSort() {
  const [sort, setSort] = useParam('sort');
  const descending = sort.startsWith('-');
  const name = descending ? sort.slice(1) : sort;
  const known = name === 'topic' || isColumn(name);
  const column: Column | 'topic' = known ? name : 'state';
  const order = !known || descending ? ('descend' as const) : ('ascend' as const);
  return { column, order, setSort };
}

function TopicsTable({ page }: { page: TopicsPage }) {
  const i18n = useI18n();
  const { t } = i18n;
  const navigate = useNavigate();
  const { search } = useLocation();
  const [query, setQuery] = useParam('q');
  const [pageText, setPage] = useParam('page');
  const [columns, setColumns] = useStored<Column[]>('topics.columns', [...DEFAULT_COLUMNS], isColumns);
  const { column, order, setSort } = useSort();

  const rows = useMemo(() => {
    const found = matching(page.topics, query, t);
    const sign = order === 'descend' ? -1 : 1;
    return found.sort((a, b) => sign * compare(column, a, b));
  }, [page.topics, query, column, order, t]);
  const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
  const at = Math.min(pages, Math.max(1, Number.parseInt(pageText, 10) || 1));
  const shown = rows.slice((at - 1) * PAGE_ROWS, at * PAGE_ROWS);

  const open = (topic: string) => void navigate(`/topics/${encodeURIComponent(topic)}${detailSearch(search)}`);
  const { selected, select } = useRows(shown.map((topic) => topic.topic), open);
  const windowS = page.topics[0]?.rates.window_s ?? 10;
  const total = page.topics.length;
  const shownColumns = tableColumns(columns, shown, { column, order }, page.generated_at_ms, windowS, i18n);

  return (
    <section className="panel" aria-label={t('topics.table')}>
      <div className="tools">
        <Search
          value={query}
          placeholder={t('topics.search')}
          onChange={(value) => {
            setQuery(value);
          }}
          onEnter={() => {
            const first = shown[0];
            if (first !== undefined) select(first.topic);
          }}
        />
        <span className="dim num">
          {rows.length === total ? t('topics.shown', { n: total }) : t('topics.shownOf', { n: rows.length, total })}
        </span>
        <OutsideHint topics={page.topics} />
        <span className="space" />
        <ColumnChoice columns={columns} setColumns={setColumns} />
        <Tooltip title={t('topics.csv.hint')}>
          <Button
            icon={<DownloadOutlined />}
            onClick={() => {
              exportCsv(page, rows);
            }}
          >
            {t('topics.csv')}
          </Button>
        </Tooltip>
      </div>
      {rows.length === 0 ? (
        <Empty
          search
          height={240}
          title={t('topics.noMatch', { query })}
          next={t('topics.noMatch.next')}
          action={
            <Button
              size="small"
              onClick={() => {
                setQuery('');
              }}
            >
              {t('topics.noMatch.clear')}
            </Button>
          }
        />
      ) : (
        <Table<TopicSummary>
          size="small"
          rowKey="topic"
          tableLayout="fixed"
          className="figures-table"
          scroll={{ x: shownColumns.reduce((sum, one) => sum + Number(one.width), 0) }}
          showSorterTooltip={false}
          columns={shownColumns}
          dataSource={shown}
          pagination={
            pages === 1
              ? false
              : {
                  current: at,
                  pageSize: PAGE_ROWS,
                  total: rows.length,
                  showSizeChanger: false,
                  onChange: (next) => {
                    setPage(next === 1 ? '' : String(next));
                  },
                }
          }
          onRow={(topic) => ({
            onClick: () => {
              open(topic.topic);
            },
          })}
          rowClassName={(topic) => (topic.topic === selected ? 'row-selected' : 'row')}
          onChange={(_pagination, _filters, sorter, { action }) => {
            if (action !== 'sort' || Array.isArray(sorter)) return;
            // A third click brings the worst first again.
            const key = String(sorter.columnKey ?? '');
            setSort(sorter.order ? (sorter.order === 'descend' ? `-${key}` : key) : '');
          }}
        />
      )}
    </section>
  );
}

/** Topics whose records all lie outside the range, and the way to them. */
function OutsideHint({ topics }: { topics: readonly TopicSummary[] }) {
  const { t } = useI18n();
  const [, setRange] = useRange();
  const n = topics.filter(isOutside).length;
  if (n === 0) return null;
  return (
    <span className="outside" data-testid="outside">
      {t('topics.outside', { n })}
      <Button
        type="link"
        size="small"
        onClick={() => {
          setRange({ kind: 'named', name: 'all' });
        }}
      >
        {t('range.showAll')}
      </Button>
    </span>
  );
}

/** The detail keeps the range, and how the list was looked at, for the way back. */
function detailSearch(search: string): string {
  const params = new URLSearchParams(search);
  params.delete('page');
  return params.size === 0 ? '' : `?${params.toString()}`;
}

function ColumnChoice({ columns, setColumns }: { columns: readonly Column[]; setColumns: (columns: Column[]) => void }) {
  const { t } = useI18n();
  const list = (
    <div className="columns">
      <Checkbox.Group
        value={[...columns]}
        options={COLUMNS.map((value) => ({ value, label: t(`count.${value}`) }))}
        onChange={(chosen) => {
          setColumns(COLUMNS.filter((name) => chosen.includes(name)));
        }}
      />
      <Button
        size="small"
        onClick={() => {
          setColumns([...COLUMNS]);
        }}
      >
        {t('topics.columns.reset')}
      </Button>
    </div>
  );
  return (
    <Popover content={list} trigger="click" placement="bottomRight">
      <Button icon={<SettingOutlined />}>{t('topics.columns')}</Button>
    </Popover>
  );
}

/** Column names stay English and stable, so that programs can read the file. */
function exportCsv(page: TopicsPage, rows: readonly TopicSummary[]): void {
  const names = ['topic', ...COLUMNS] as const;
  const body = rows.map((topic) =>
    names.map((name) => (name === 'last_event' ? new Date(topic.last_event_ms).toISOString() : valueOf(name, topic))),
  );
  download(fileName('topics', page.from_ms, page.to_ms), toCsv([[...names], ...body]));
}
