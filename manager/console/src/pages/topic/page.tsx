/** One topic: is it whole, and if not, where are its records? */
import { InboxOutlined, LeftOutlined } from '@ant-design/icons';
import type { UseQueryResult } from '@tanstack/react-query';
import { Button, Tabs } from 'antd';
import type { ReactNode } from 'react';
import { Link, useLocation, useNavigate, useParams } from 'react-router';

import { ApiError } from '../../api/client';
import { useLive } from '../../api/live';
import { useDead, useLosses, useMinutes, useTopic, useTopics } from '../../api/queries';
import type { TopicDetail, TopicSummary } from '../../api/types';
import { useI18n } from '../../i18n/context';
import { useShortcuts } from '../../lib/keys';
import { useParam, useRange } from '../../lib/url';
import { isOutside, topicWhy } from '../../lib/why';
import { MinuteChart } from '../../ui/chart';
import { LiveBadge } from '../../ui/live-badge';
import { Failed, Loading, Notice } from '../../ui/notice';
import { RangePicker } from '../../ui/range-picker';
import { TopicMark } from '../../ui/state';
import { DeadTable } from './dead-table';
import { Hops } from './hops';
import { HostsTable } from './hosts-table';
import { LossesTable } from './losses-table';
import { MinutesTable } from './minutes-table';

const TABS = ['minutes', 'losses', 'dead', 'hosts'] as const;

export default function Topic() {
  const { t, fmt } = useI18n();
  const { topic = '' } = useParams();
  const navigate = useNavigate();
  const list = listPath(useLocation().search);
  const [range, setRange] = useRange();
  const live = useLive(range);
  const topics = useTopics(range, live.link);
  const detail = useTopic(topic, range);
  useShortcuts({ Escape: () => void navigate(list) });

  const summary = newest(topic, topics.data, detail.data);
  const missing = detail.error instanceof ApiError && detail.error.failure.kind === 'missing';
  return (
    <div className="page">
      <header className="page-head">
        <Link to={list} className="back">
          <LeftOutlined /> {t('topic.back')}
        </Link>
        <h1 className="topic-title" data-testid="topic-title" title={topic}>
          {topic}
        </h1>
        {summary === undefined ? null : (
          <>
            <TopicMark state={summary.state} />
            <span className="why" data-testid="topic-why">
              {topicWhy(summary, t, fmt)}
            </span>
            {isOutside(summary) ? (
              <Button
                size="small"
                data-testid="show-all"
                onClick={() => {
                  setRange({ kind: 'named', name: 'all' });
                }}
              >
                {t('range.showAll')}
              </Button>
            ) : null}
          </>
        )}
        <span className="space" />
        <LiveBadge live={live} updatedMs={Math.max(topics.dataUpdatedAt, detail.dataUpdatedAt)} />
        <RangePicker range={range} setRange={setRange} />
      </header>
      {summary === undefined ? (
        <div className="panel">
          {missing ? (
            <Notice
              icon={<InboxOutlined />}
              title={t('topic.unknown', { topic })}
              next={t('topic.unknown.next')}
              action={<Link to={list}>{t('topic.unknown.list')}</Link>}
              height={420}
              testId="empty"
            />
          ) : detail.error === null ? (
            <Loading rows={12} height={520} />
          ) : (
            <Failed error={detail.error} retry={() => void detail.refetch()} height={520} />
          )}
        </div>
      ) : (
        <Body topic={topic} summary={summary} detail={detail} />
      )}
    </div>
  );
}

/** The list as it was looked at. */
function listPath(search: string): string {
  const params = new URLSearchParams(search);
  for (const name of ['tab', 'all']) params.delete(name);
  return params.size === 0 ? '/topics' : `/topics?${params.toString()}`;
}

interface Dated {
  readonly generated_at_ms: number;
}

/** The newest summary: of the live stream, or of the topic's own answer. */
function newest(
  topic: string,
  page: (Dated & { topics: TopicSummary[] }) | undefined,
  detail: TopicDetail | undefined,
): TopicSummary | undefined {
  const listed = page?.topics.find((known) => known.topic === topic);
  const own = detail?.summary.topic === topic ? detail : undefined;
  if (page === undefined || listed === undefined) return own?.summary;
  return own !== undefined && own.generated_at_ms > page.generated_at_ms ? own.summary : listed;
}

interface BodyProps {
  readonly topic: string;
  readonly summary: TopicSummary;
  readonly detail: UseQueryResult<TopicDetail>;
}

function Body({ topic, summary, detail }: BodyProps) {
  const { t } = useI18n();
  const [range, setRange] = useRange();
  const [tabText, setTab] = useParam('tab');
  const minutes = useMinutes(topic, range);
  const losses = useLosses(topic, range);
  const dead = useDead(topic);
  const tab = TABS.find((known) => known === tabText) ?? 'minutes';
  const chart = {
    minutes: minutes.data?.minutes,
    step: minutes.data?.step_minutes ?? 1,
    error: minutes.error,
    retry: () => void minutes.refetch(),
    range,
    setRange,
  };
  const counted: Record<(typeof TABS)[number], number | undefined> = {
    minutes: undefined,
    losses: losses.data?.total,
    dead: dead.data?.destinations.flatMap((one) => one.reasons).reduce((sum, one) => sum + one.letters, 0),
    hosts: detail.data?.hosts.length,
  };
  const content: Record<(typeof TABS)[number], ReactNode> = {
    minutes: loaded(minutes, (page) => <MinutesTable page={page} />),
    losses: loaded(losses, (page) => <LossesTable page={page} />),
    dead: loaded(dead, (page) => <DeadTable page={page} />),
    hosts: loaded(detail, (page) => <HostsTable page={page} />),
  };
  return (
    <>
      <Hops topic={topic} counts={summary.counts} />
      <div className="charts">
        <MinuteChart kind="flow" {...chart} />
        <MinuteChart kind="gap" {...chart} />
      </div>
      <section className="panel tabs">
        <Tabs
          size="small"
          activeKey={tab}
          onChange={(key) => {
            setTab(key === 'minutes' ? '' : key);
          }}
          items={TABS.map((key) => ({
            key,
            label: (
              <span data-testid={`tab-${key}`}>
                {t(`topic.tab.${key}`)}
                {counted[key] === undefined ? null : <span className="badge num">{counted[key]}</span>}
              </span>
            ),
            children: content[key],
          }))}
        />
      </section>
    </>
  );
}

/** The content of a query, or what stands in its place. */
function loaded<T>(query: UseQueryResult<T>, show: (data: T) => ReactNode): ReactNode {
  if (query.data !== undefined) return show(query.data);
  if (query.error === null) return <Loading rows={6} height={240} />;
  return <Failed error={query.error} retry={() => void query.refetch()} height={240} />;
}
