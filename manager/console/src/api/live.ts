/**
 * The live stream of a page: `GET /api/v1/live` as server-sent events.
 *
 * Its events `topics` carry the same JSON as `/api/v1/topics`; `heartbeat` says that nothing
 * changed. While the stream is interrupted the page polls; while the tab is hidden it is closed.
 */
import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useState, useSyncExternalStore } from 'react';

import { useNow } from '../lib/now';
import { isFixed, rangeKey, type Range } from '../lib/range';
import { topicsKey } from './keys';
import type { TopicsPage } from './types';

/** How figures reach the page now. */
export type Link = 'connecting' | 'live' | 'polling' | 'paused' | 'fixed';

/** A stream without any event for so long is taken for broken, in ms; the manager beats every 5 s. */
export const SILENCE_MS = 12_000;
/** How often a page asks while there is no stream, in ms. */
export const POLL_MS = 5_000;
/** When a refused stream is tried again, in ms. */
const RETRY_MS = 15_000;

/** How often a custom range is looked at whether it lies in the past by now, in ms. */
const CLOCK_MS = 30_000;

/** Figures older than this are called stale, in ms. */
export const STALE_MS = 15_000;

/** Reads one `topics` event; `null` when it is none. */
export function readPage(data: string): TopicsPage | null {
  try {
    const page: unknown = JSON.parse(data);
    if (typeof page !== 'object' || page === null) return null;
    return 'topics' in page && Array.isArray(page.topics) && 'to_ms' in page ? (page as TopicsPage) : null;
  } catch {
    return null;
  }
}

/** Whether the tab is hidden. */
export function useHidden(): boolean {
  return useSyncExternalStore(
    (changed) => {
      document.addEventListener('visibilitychange', changed);
      return () => {
        document.removeEventListener('visibilitychange', changed);
      };
    },
    () => document.hidden,
  );
}

/** What the stream said last. */
export interface Live {
  readonly link: Link;
  /** The browser's clock at the last event, in ms; 0 before the first. */
  readonly heardMs: number;
}

/** Keeps the topics of a range up to date and says how. */
export function useLive(range: Range): Live {
  const queryClient = useQueryClient();
  const hidden = useHidden();
  const [state, setState] = useState<Live & { key: string }>({ link: 'connecting', heardMs: 0, key: '' });
  const fixed = isFixed(range, useNow(CLOCK_MS));
  // The stream knows named ranges only: a custom range that still grows is polled.
  const name = range.kind === 'named' ? range.name : null;
  const key = rangeKey(range);

  useEffect(() => {
    if (hidden || name === null) return;
    const tell = (link: Link, heard: boolean) => {
      setState((old) => ({ link, heardMs: heard ? Date.now() : old.key === name ? old.heardMs : 0, key: name }));
    };
    let source: EventSource | null = null;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const again = (ms: number, then: () => void) => {
      clearTimeout(timer);
      timer = setTimeout(then, ms);
    };
    const broken = () => {
      source?.close();
      tell('polling', false);
      again(RETRY_MS, open);
    };
    const heard = () => {
      tell('live', true);
      again(SILENCE_MS, broken);
    };
    const open = () => {
      source?.close();
      source = new EventSource(`/api/v1/live?range=${name}`);
      source.addEventListener('topics', (event: MessageEvent<string>) => {
        const page = readPage(event.data);
        if (page === null) return;
        queryClient.setQueryData(topicsKey(name), page);
        heard();
      });
      source.addEventListener('heartbeat', heard);
      source.onerror = () => {
        // The browser reconnects by itself unless the server said no.
        if (source?.readyState === EventSource.CLOSED) broken();
        else tell('polling', false);
      };
      again(SILENCE_MS, broken);
    };
    open();
    return () => {
      clearTimeout(timer);
      source?.close();
    };
  }, [queryClient, name, hidden]);

  if (fixed) return { link: 'fixed', heardMs: 0 };
  if (hidden) return { link: 'paused', heardMs: state.heardMs };
  if (name === null) return { link: 'polling', heardMs: 0 };
  return state.key === key ? state : { link: 'connecting', heardMs: 0 };
}
