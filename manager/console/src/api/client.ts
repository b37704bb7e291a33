/**
 * The API: one function per question or act, typed by the manager's OpenAPI document. Called by
 * `queries.ts` alone. Every failure is an [`ApiError`], which says what to show.
 */
import createClient from 'openapi-fetch';

import { rangeQuery, type Range } from '../lib/range';
import type { paths } from './schema';
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

/** How long an answer may take, in ms. */
export const TIMEOUT_MS = 15_000;

/** Why there is no answer. */
export type Failure =
  | { readonly kind: 'unreachable' }
  | { readonly kind: 'timeout' }
  | { readonly kind: 'forbidden'; readonly message: string }
  | { readonly kind: 'missing'; readonly message: string }
  | { readonly kind: 'status'; readonly status: number; readonly message: string }
  | { readonly kind: 'shape' };

/** An answer that did not come, or that says no. */
export class ApiError extends Error {
  readonly failure: Failure;

  constructor(failure: Failure) {
    super(failure.kind);
    this.failure = failure;
  }
}

const client = createClient<paths>({ baseUrl: '/' });

/** What is wrong with an answer of this status and body. */
export function failureOf(status: number, body: unknown): Failure {
  const told = messageOf(body);
  // A proxy before a manager that is away; the manager itself always says why.
  if (told === null && status >= 502 && status <= 504) return { kind: 'unreachable' };
  const message = told ?? `HTTP ${status}`;
  if (status === 401 || status === 403) return { kind: 'forbidden', message };
  if (status === 404) return { kind: 'missing', message };
  return { kind: 'status', status, message };
}

function messageOf(body: unknown): string | null {
  if (typeof body !== 'object' || body === null || !('error' in body)) return null;
  const error = body.error;
  if (typeof error !== 'object' || error === null || !('message' in error)) return null;
  return typeof error.message === 'string' ? error.message : null;
}

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

async function ask<T>(signal: AbortSignal, send: (signal: AbortSignal) => Promise<Answer<T>>): Promise<T> {
  const deadline = AbortSignal.timeout(TIMEOUT_MS);
  let answer: Answer<T>;
  try {
    answer = await send(AbortSignal.any([signal, deadline]));
  } catch (cause) {
    if (signal.aborted) throw cause;
    if (deadline.aborted) throw new ApiError({ kind: 'timeout' });
    throw new ApiError({ kind: cause instanceof SyntaxError ? 'shape' : 'unreachable' });
  }
  if (answer.data !== undefined) return answer.data;
  throw new ApiError(failureOf(answer.response.status, answer.error));
}

/** All topics with their counts. */
export function fetchTopics(range: Range, signal: AbortSignal): Promise<TopicsPage> {
  const query = rangeQuery(range);
  return ask(signal, (signal) => client.GET('/api/v1/topics', { params: { query }, signal }));
}

/** One topic with its hosts. */
export function fetchTopic(topic: string, range: Range, signal: AbortSignal): Promise<TopicDetail> {
  const params = { path: { topic }, query: rangeQuery(range) };
  return ask(signal, (signal) => client.GET('/api/v1/topics/{topic}', { params, signal }));
}

/** One topic's minutes. */
export function fetchMinutes(topic: string, range: Range, signal: AbortSignal): Promise<TopicCounts> {
  const params = { path: { topic }, query: rangeQuery(range) };
  return ask(signal, (signal) => client.GET('/api/v1/topics/{topic}/counts', { params, signal }));
}

/** The losses of a topic, newest first. */
export function fetchLosses(topic: string, range: Range, signal: AbortSignal): Promise<LossesPage> {
  const params = { query: { topic, limit: 1000, ...rangeQuery(range) } };
  return ask(signal, (signal) => client.GET('/api/v1/losses', { params, signal }));
}

/** The dead letters of a topic, or of all. */
export function fetchDead(topic: string | undefined, signal: AbortSignal): Promise<DeadPage> {
  const params = { query: topic === undefined ? {} : { topic } };
  return ask(signal, (signal) => client.GET('/api/v1/dead', { params, signal }));
}

/** All agents and bus nodes. */
export function fetchNodes(signal: AbortSignal): Promise<NodesPage> {
  return ask(signal, (signal) => client.GET('/api/v1/nodes', { signal }));
}

/** All bus clusters. */
export function fetchClusters(signal: AbortSignal): Promise<ClustersPage> {
  return ask(signal, (signal) => client.GET('/api/v1/clusters', { signal }));
}

/** What people asked the manager to do, newest first. */
export function fetchAudit(signal: AbortSignal): Promise<AuditPage> {
  return ask(signal, (signal) => client.GET('/api/v1/audit', { params: { query: { limit: 20 } }, signal }));
}

/** Opens a window in which the nodes of a bus cluster hand over connections. */
export function openWindow(cluster: string, body: OpenWindow): Promise<Window> {
  const params = { path: { cluster } };
  const { signal } = new AbortController();
  return ask(signal, (signal) => client.POST('/api/v1/clusters/{cluster}/rebalance', { params, body, signal }));
}

/** Minutes of several topics, added up minute by minute. */
export function sumMinutes(topics: readonly (readonly MinuteCounts[])[], add: (a: MinuteCounts['counts'], b: MinuteCounts['counts']) => MinuteCounts['counts']): MinuteCounts[] {
  const sums = new Map<number, MinuteCounts>();
  for (const { minute_ms, counts } of topics.flat()) {
    const seen = sums.get(minute_ms);
    sums.set(minute_ms, { minute_ms, counts: seen === undefined ? counts : add(seen.counts, counts) });
  }
  return [...sums.values()].sort((a, b) => a.minute_ms - b.minute_ms);
}
