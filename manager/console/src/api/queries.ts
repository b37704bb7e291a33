/** The pages' questions, with how often each is asked again. */
import { keepPreviousData, useQueries, useQuery, type UseQueryResult } from '@tanstack/react-query';

import { add } from '../lib/minutes';
import { isFixed, rangeKey, refreshMs, type Range } from '../lib/range';
import { fetchDead, fetchLosses, fetchMinutes, fetchNodes, fetchTopic, fetchTopics, sumMinutes } from './client';
import { topicsKey } from './keys';
import { POLL_MS, type Link } from './live';
import type { DeadPage, LossesPage, MinuteCounts, NodesPage, TopicCounts, TopicDetail, TopicsPage } from './types';

/** The most topics whose minutes the overview adds up. */
export const MAX_CHART_TOPICS = 25;

/** All topics; the live stream writes into the same entry. */
export function useTopics(range: Range, link: Link): UseQueryResult<TopicsPage> {
  return useQuery({
    queryKey: topicsKey(rangeKey(range)),
    queryFn: ({ signal }) => fetchTopics(range, signal),
    refetchInterval: link === 'polling' ? POLL_MS : false,
    placeholderData: keepPreviousData,
  });
}

/** When to ask again: every so often while the range still grows. */
function refresh(range: Range, periodMs: number): () => number | false {
  return () => (isFixed(range, Date.now()) ? false : periodMs);
}

/** One topic with its hosts. */
export function useTopic(topic: string, range: Range): UseQueryResult<TopicDetail> {
  return useQuery({
    queryKey: ['topic', topic, rangeKey(range)],
    queryFn: ({ signal }) => fetchTopic(topic, range, signal),
    refetchInterval: refresh(range, POLL_MS),
    placeholderData: keepPreviousData,
  });
}

function minutesQuery(topic: string, range: Range) {
  return {
    queryKey: ['minutes', topic, rangeKey(range)],
    queryFn: ({ signal }: { signal: AbortSignal }) => fetchMinutes(topic, range, signal),
    refetchInterval: refresh(range, refreshMs(range)),
    placeholderData: keepPreviousData<TopicCounts>,
  };
}

/** One topic's minutes. */
export function useMinutes(topic: string, range: Range): UseQueryResult<TopicCounts> {
  return useQuery(minutesQuery(topic, range));
}

/** The minutes of several topics added up; absent until all of them are there. */
export interface AllMinutes {
  readonly minutes: MinuteCounts[] | undefined;
  /** The widest step among them, in minutes. */
  readonly step: number;
  readonly error: Error | null;
  readonly retry: () => void;
}

function combine(results: UseQueryResult<TopicCounts>[]): AllMinutes {
  const pages = results.flatMap((result) => (result.data === undefined ? [] : [result.data]));
  const error = results.find((result) => result.error !== null && result.data === undefined)?.error;
  return {
    minutes: pages.length === results.length ? sumMinutes(pages.map((page) => page.minutes), add) : undefined,
    step: Math.max(1, ...pages.map((page) => page.step_minutes)),
    error: error ?? null,
    retry: () => {
      for (const result of results) if (result.error !== null) void result.refetch();
    },
  };
}

/** The minutes of these topics, added up. */
export function useAllMinutes(topics: readonly string[], range: Range): AllMinutes {
  return useQueries({ queries: topics.map((topic) => minutesQuery(topic, range)), combine });
}

/** The losses of a topic. */
export function useLosses(topic: string, range: Range): UseQueryResult<LossesPage> {
  return useQuery({
    queryKey: ['losses', topic, rangeKey(range)],
    queryFn: ({ signal }) => fetchLosses(topic, range, signal),
    refetchInterval: refresh(range, refreshMs(range)),
    placeholderData: keepPreviousData,
  });
}

/** The dead letters of a topic, or of all: as they are now, whatever the range is. */
export function useDead(topic?: string): UseQueryResult<DeadPage> {
  return useQuery({
    queryKey: ['dead', topic ?? ''],
    queryFn: ({ signal }) => fetchDead(topic, signal),
    refetchInterval: POLL_MS,
    placeholderData: keepPreviousData,
  });
}

/** All agents and bus nodes. */
export function useNodes(): UseQueryResult<NodesPage> {
  return useQuery({
    queryKey: ['nodes'],
    queryFn: ({ signal }) => fetchNodes(signal),
    refetchInterval: POLL_MS,
  });
}
