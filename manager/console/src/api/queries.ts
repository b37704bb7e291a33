/** The pages' questions, with how often each is asked again, and what they ask to be done. */
import {
  keepPreviousData,
  useMutation,
  useQueries,
  useQuery,
  useQueryClient,
  type UseMutationResult,
  type UseQueryResult,
} from '@tanstack/react-query';

import { add } from '../lib/minutes';
import { isFixed, rangeKey, refreshMs, type Range } from '../lib/range';
import {
  fetchAudit,
  fetchClusters,
  fetchDead,
  fetchLosses,
  fetchMinutes,
  fetchNodes,
  fetchTopic,
  fetchTopics,
  openWindow,
  sumMinutes,
} from './client';
import { topicsKey } from './keys';
import { POLL_MS, type Link } from './live';
import type {
  AuditPage,
  ClustersPage,
  DeadPage,
  LossesPage,
  MinuteCounts,
  NodesPage,
  OpenWindow,
  TopicCounts,
  TopicDetail,
  TopicsPage,
  Window,
} from './types';

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

/** How often a page looks while something that was asked for goes on. */
const BUSY_MS = 1_000;

/** Whether a window goes on. */
export function isOpen(window: Window | null | undefined): boolean {
  return window?.state === 'telling' || window?.state === 'open';
}

/** All bus clusters; often while a window is open. */
export function useClusters(): UseQueryResult<ClustersPage> {
  return useQuery({
    queryKey: ['clusters'],
    queryFn: ({ signal }) => fetchClusters(signal),
    refetchInterval: (query) =>
      query.state.data?.clusters.some((cluster) => isOpen(cluster.window)) ? BUSY_MS : POLL_MS,
  });
}

/** What people asked for. */
export function useAudit(): UseQueryResult<AuditPage> {
  return useQuery({
    queryKey: ['audit'],
    queryFn: ({ signal }) => fetchAudit(signal),
    refetchInterval: POLL_MS,
  });
}

/** Opens a window; what it changes is asked for anew. */
export function useOpenWindow(cluster: string): UseMutationResult<Window, Error, OpenWindow> {
  const cache = useQueryClient();
  return useMutation({
    networkMode: 'always',
    mutationFn: (body: OpenWindow) => openWindow(cluster, body),
    onSettled: () =>
      Promise.all([
        cache.invalidateQueries({ queryKey: ['clusters'] }),
        cache.invalidateQueries({ queryKey: ['audit'] }),
      ]),
  });
}
