import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { en } from './en';
import { guessLang, placeholders, translator, type Message } from './index';
import { zh } from './zh';

const keys = Object.keys(en) as (keyof typeof en)[];

function sources(dir: string): string[] {
  return readdirSync(dir).flatMap((name) => {
    const path = join(dir, name);
    if (statSync(path).isDirectory()) return name === 'i18n' ? [] : sources(path);
    return /\.tsx?$/.test(name) && !name.includes('.test.') ? [readFileSync(path, 'utf8')] : [];
  });
}

describe('languages', () => {
  it('have the same keys', () => {
    expect(Object.keys(zh).sort()).toEqual([...keys].sort());
  });

  it('have the same placeholders and no empty text', () => {
    for (const key of keys) {
      const [a, b]: Message[] = [en[key], zh[key]];
      if (a === undefined || b === undefined) throw new Error(`${key} is missing`);
      // A language without a singular may say the number where English says none.
      const wanted = placeholders(a).filter((name) => name !== 'n');
      expect(placeholders(b).filter((name) => name !== 'n'), key).toEqual(wanted);
      for (const message of [a, b]) {
        const texts = typeof message === 'string' ? [message] : Object.values(message);
        for (const text of texts) expect(text.trim(), key).not.toBe('');
      }
    }
  });

  it('have no key that nothing uses', () => {
    const code = sources(join(import.meta.dirname, '..')).join('\n');
    const prefixes = [...code.matchAll(/`([\w.]+\.)\$\{/g)].map((match) => match[1] ?? '-');
    const composed = [...code.matchAll(/\}(\.[\w.]+)`/g)].map((match) => match[1] ?? '-');
    for (const key of keys) {
      const direct = code.includes(`'${key}'`);
      const built = prefixes.some((p) => key.startsWith(p)) || composed.some((s) => key.endsWith(s));
      expect(direct || built, `${key} is used nowhere`).toBe(true);
    }
  });
});

describe('translator', () => {
  it('writes numbers with separators and chooses the plural', () => {
    const t = translator('en');
    expect(t('topics.shown', { n: 1 })).toBe('1 topic');
    expect(t('topics.shown', { n: 1234 })).toBe('1,234 topics');
    expect(translator('zh')('topics.shown', { n: 1234 })).toBe('1,234 个 topic');
  });

  it('leaves an unknown placeholder visible', () => {
    expect(translator('en')('age.ago')).toBe('{age} ago');
  });

  it('is chosen by the browser at first', () => {
    expect(guessLang(['zh-Hans-CN', 'en'])).toBe('zh');
    expect(guessLang(['de', 'zh'])).toBe('en');
    expect(guessLang([])).toBe('en');
  });
});
