import { expect, it } from 'vitest';

import { failureOf } from './client';
import { readPage } from './live';

const body = { error: { code: 'x', message: 'say why' } };

it('tells what to show from an answer that is none', () => {
  expect(failureOf(403, body)).toEqual({ kind: 'forbidden', message: 'say why' });
  expect(failureOf(401, body)).toEqual({ kind: 'forbidden', message: 'say why' });
  expect(failureOf(404, body)).toEqual({ kind: 'missing', message: 'say why' });
  expect(failureOf(500, body)).toEqual({ kind: 'status', status: 500, message: 'say why' });
  for (const nonsense of [null, undefined, 'text', {}, { error: 'text' }, { error: { message: 1 } }]) {
    expect(failureOf(500, nonsense)).toEqual({ kind: 'status', status: 500, message: 'HTTP 500' });
    expect(failureOf(502, nonsense)).toEqual({ kind: 'unreachable' });
  }
});

it('takes only whole pages from the live stream', () => {
  const page = { generated_at_ms: 1, from_ms: 0, to_ms: 1, topics: [] };
  expect(readPage(JSON.stringify(page))).toEqual(page);
  for (const data of ['', '{', 'null', '[]', '{"topics":1,"to_ms":1}', '{"topics":[]}']) {
    expect(readPage(data)).toBeNull();
  }
});
