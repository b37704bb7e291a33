/** The columns of the topics table: one list for the table, the choice of columns and the CSV. */
import { Tooltip } from 'antd';
import type { ColumnType } from 'antd/es/table';

import type { Counts, TopicSummary } from '../../api/types';
import type { I18n } from '../../i18n/context';
import { severity } from '../../lib/states';
import { topicWhy } from '../../lib/why';
import { Count, countClass } from '../../ui/count';
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
  'dead',
  'dropped',
  'doubled',
  'unexplained',
  'purged',
  'replayed',
] as const satisfies readonly (keyof Counts)[];

/** All columns after the topic's name, which is always there. */
export const COLUMNS = [
  'state',
  'total_read',
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
  (name) => !['dead', 'purged', 'replayed', 'agents', 'last_event'].includes(name),
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
    case 'total_read':
      return topic.total.read;
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
    case 'total_read':
      return <Total topic={topic} testId={testId} i18n={i18n} />;
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

/** What is known of a topic in all, whatever the range is; loud when records are unexplained there. */
function Total({ topic, testId, i18n }: { topic: TopicSummary; testId: string; i18n: I18n }) {
  const { t, fmt } = i18n;
  const { total, first_minute_ms: first, last_minute_ms: last } = topic;
  const when = typeof first === 'number' && typeof last === 'number';
  const hint = (
    <>
      {when ? t('range.words.custom', { from: fmt.minute(first), to: fmt.minute(last) }) : null}
      {(['delivered', 'in_flight', 'refused', 'dead', 'purged', 'dropped', 'doubled', 'unexplained'] as const).map((name) => (
        <div key={name}>{`${t(`count.${name}`)}: ${fmt.count(total[name])}`}</div>
      ))}
    </>
  );
  const loud = total.unexplained > 0 ? countClass('unexplained', total.unexplained) : countClass('read', total.read);
  return (
    <Tooltip title={hint}>
      <span className={loud} data-testid={testId}>
        {fmt.count(total.read)}
      </span>
    </Tooltip>
  );
}

/** The least widths in px: what the heads need, broken into two lines at most. */
const WIDTHS: Readonly<Record<Column, number>> = {
  state: 90,
  total_read: 80,
  read: 80,
  sent: 80,
  received: 80,
  delivered: 80,
  in_flight: 62,
  duplicates_removed: 74,
  refused: 66,
  dead: 56,
  dropped: 68,
  doubled: 68,
  unexplained: 88,
  purged: 66,
  replayed: 74,
  read_per_s: 74,
  delivered_per_s: 74,
  agents: 96,
  last_event: 96,
};

/** The width in px that holds the largest figure of a column, so that none is cut. */
function width(column: Column, topics: readonly TopicSummary[], i18n: I18n): number {
  if (column === 'state' || column === 'agents' || column === 'last_event') return WIDTHS[column];
  const glyphs = topics.reduce((most, topic) => {
    const value = valueOf(column, topic);
    return Math.max(most, i18n.fmt.count(typeof value === 'number' ? value : undefined).length);
  }, 0);
  return Math.max(WIDTHS[column], Math.ceil(glyphs * 6.9) + 18);
}

/** The width of the names in px; longer ones are cut, and whole on hover. */
const NAME_WIDTH = 122;

/** The columns for the table. */
export function tableColumns(
  shown: readonly Column[],
  topics: readonly TopicSummary[],
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
    width: NAME_WIDTH,
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
        width: width(column, topics, i18n),
        align: column === 'state' ? 'left' : 'right',
        sorter: true,
        sortDirections: ['descend', 'ascend'],
        sortOrder: order(column),
        render: (_, topic) => <Cell column={column} topic={topic} nowMs={nowMs} i18n={i18n} />,
      }),
    ),
  ];
}
