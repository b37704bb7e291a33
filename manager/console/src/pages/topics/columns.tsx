/** The columns of the topics table: one list for the table, the choice of columns and the CSV. */
import { Tooltip } from 'antd';
import type { ColumnType } from 'antd/es/table';

import type { Counts, TopicSummary } from '../../api/types';
import type { I18n } from '../../i18n/context';
import { severity } from '../../lib/states';
import { topicWhy } from '../../lib/why';
import { Count } from '../../ui/count';
import { TopicMark } from '../../ui/state';
import { Ago } from '../../ui/time';

/** The counts in the order of a record's way, then what should be 0. */
export const COUNTS = [
  'read',
  'sent',
  'received',
  'delivered',
  'in_flight',
  'duplicates_removed',
  'refused',
  'dropped',
  'doubled',
  'unexplained',
] as const satisfies readonly (keyof Counts)[];

/** All columns after the topic's name, which is always there. */
export const COLUMNS = [
  'state',
  ...COUNTS,
  'read_per_s',
  'delivered_per_s',
  'agents',
  'last_event',
] as const;
/** One of them. */
export type Column = (typeof COLUMNS)[number];

/** What a new reader sees. */
export const DEFAULT_COLUMNS: readonly Column[] = COLUMNS.filter(
  (name) => name !== 'agents' && name !== 'last_event',
);

/** Whether a name is a column's. */
export function isColumn(value: unknown): value is Column {
  return COLUMNS.some((name) => name === value);
}

/** What a column sorts by and exports. */
export function valueOf(column: Column | 'topic', topic: TopicSummary): number | string {
  switch (column) {
    case 'topic':
      return topic.topic;
    case 'state':
      return topic.state;
    case 'read_per_s':
    case 'delivered_per_s':
      return topic.rates[column];
    case 'agents':
      return topic.agents;
    case 'last_event':
      return topic.last_event_ms;
    default:
      return topic.counts[column];
  }
}

/** Topics in the order of a column; equal ones by name. Numbers and states start with the largest or worst. */
export function compare(column: Column | 'topic', a: TopicSummary, b: TopicSummary): number {
  if (column === 'state') return severity(b.state) - severity(a.state) || b.topic.localeCompare(a.topic);
  const [x, y] = [valueOf(column, a), valueOf(column, b)];
  const order = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y));
  return order || a.topic.localeCompare(b.topic);
}

function Cell({ column, topic, nowMs, i18n }: { column: Column; topic: TopicSummary; nowMs: number; i18n: I18n }) {
  const { t, fmt } = i18n;
  const testId = `cell-${topic.topic}-${column}`;
  switch (column) {
    case 'state':
      return (
        <span data-testid={testId} data-state={topic.state}>
          <TopicMark state={topic.state} hint={topicWhy(topic, t, fmt)} />
        </span>
      );
    case 'read_per_s':
    case 'delivered_per_s': {
      const rate = topic.rates[column];
      return (
        <span className={rate === 0 ? 'num zero' : 'num'} data-testid={testId}>
          {fmt.rate(rate)}
        </span>
      );
    }
    case 'agents':
      return (
        <span className="num" data-testid={testId}>
          {topic.silent_agents > 0
            ? t('count.agents.silent', { n: topic.agents, silent: topic.silent_agents })
            : fmt.count(topic.agents)}
        </span>
      );
    case 'last_event':
      return <Ago ms={topic.last_event_ms} nowMs={nowMs} />;
    default:
      return <Count name={column} value={topic.counts[column]} testId={testId} />;
  }
}

/** Widths in px that hold ten digits without a jump. */
function width(column: Column): number {
  if (column === 'state') return 104;
  if (column === 'read' || column === 'sent' || column === 'received' || column === 'delivered') return 96;
  if (column === 'agents' || column === 'last_event') return 96;
  return 82;
}

/** The columns for the table. */
export function tableColumns(
  shown: readonly Column[],
  sort: { column: string; order: 'ascend' | 'descend' },
  nowMs: number,
  windowS: number,
  i18n: I18n,
): ColumnType<TopicSummary>[] {
  const head = (column: Column | 'topic') => (
    <Tooltip title={i18n.t(`count.${column}.help`, { seconds: windowS })}>
      <span>{i18n.t(`count.${column}`)}</span>
    </Tooltip>
  );
  const order = (column: string) => (sort.column === column ? sort.order : null);
  const name: ColumnType<TopicSummary> = {
    key: 'topic',
    title: head('topic'),
    fixed: 'left',
    width: 168,
    ellipsis: true,
    sorter: true,
    sortOrder: order('topic'),
    render: (_, topic) => (
      <span className="topic-name" title={topic.topic} data-testid={`topic-${topic.topic}`}>
        {topic.topic}
      </span>
    ),
  };
  return [
    name,
    ...COLUMNS.filter((column) => shown.includes(column)).map(
      (column): ColumnType<TopicSummary> => ({
        key: column,
        title: head(column),
        width: width(column),
        align: column === 'state' ? 'left' : 'right',
        sorter: true,
        sortDirections: ['descend', 'ascend'],
        sortOrder: order(column),
        render: (_, topic) => <Cell column={column} topic={topic} nowMs={nowMs} i18n={i18n} />,
      }),
    ),
  ];
}
