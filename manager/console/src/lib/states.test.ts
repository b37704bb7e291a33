import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, it } from 'vitest';

import type { TopicSummary } from '../api/types';
import { translator } from '../i18n';
import { formatter } from './format';
import { NO_COUNTS } from './minutes';
import { nodeLook, severity, TOPIC_STATES, topicLook } from './states';
import { isOutside, topicWhy } from './why';

it('knows every state of the API, and no other', () => {
  const document = readFileSync(join(import.meta.dirname, '../api/schema.d.ts'), 'utf8');
  const listed = /TopicState: ([^;]+);/.exec(document)?.[1] ?? '';
  const states = [...listed.matchAll(/"(\w+)"/g)].map((match) => match[1] ?? '');
  expect([...TOPIC_STATES].sort()).toEqual(states.sort());
});

it('gives every state a look of its own', () => {
  const looks = TOPIC_STATES.map((state) => topicLook(state));
  expect(new Set(looks.map((look) => look.shape)).size).toBe(TOPIC_STATES.length);
  expect(nodeLook('live').shape).not.toBe(nodeLook('silent').shape);
});

it('sorts the worst first, and what it does not know before the harmless', () => {
  expect(TOPIC_STATES.map(severity)).toEqual(TOPIC_STATES.map((_, index) => index));
  expect(severity('of a later version')).toBeGreaterThan(severity('silent'));
  expect(severity('of a later version')).toBeLessThan(severity('in_flight'));
});

it('says every state in a sentence with its figure', () => {
  const t = translator('en');
  const fmt = formatter('en-GB', t, 'UTC');
  const counts = { ...NO_COUNTS, read: 1200, in_flight: 1, refused: 2, dropped: 3, doubled: 4, unexplained: 5, dead: 7 };
  const topic: TopicSummary = {
    topic: 'web',
    state: 'whole',
    counts,
    total: counts,
    first_minute_ms: 0,
    last_minute_ms: 60_000,
    rates: { read_per_s: 0, delivered_per_s: 0, window_s: 10 },
    agents: 1,
    silent_agents: 6,
    losses: 1,
    lost_bytes: 2048,
    last_event_ms: 0,
  };
  const figures = { losing: '5 ', dropped: '3 ', refused: '2 ', dead_letters: '7 ', doubled: '4 ', silent: '6 ', in_flight: '1 ', whole: '1,200' };
  for (const [state, figure] of Object.entries(figures)) {
    expect(topicWhy({ ...topic, state: state as TopicSummary['state'] }, t, fmt)).toContain(figure);
  }
  const unread = { ...topic, state: 'dropped' as const, counts: { ...counts, dropped: 0 } };
  expect(topicWhy(unread, t, fmt)).toContain('2.0 KiB');
  const outside = { ...topic, state: 'idle' as const, counts: NO_COUNTS };
  expect(isOutside(outside)).toBe(true);
  expect(topicWhy(outside, t, fmt)).toContain('1,200 records from 1970-01-01 00:00 to 1970-01-01 00:01');
  expect(topicWhy({ ...outside, total: NO_COUNTS }, t, fmt)).toBe(t('state.idle.why'));
});
