/** Translation: keys to texts in the reader's language. Pure; React's part is `context.tsx`. */
import { en } from './en';
import { zh } from './zh';

/** One text, or one per plural form. */
export type Message = string | { readonly one?: string; readonly other: string };
/** All keys. */
export type Key = keyof typeof en;
/** A whole language. */
export type Texts = { readonly [K in Key]: (typeof en)[K] extends string ? string : { readonly one?: string; readonly other: string } };
/** The languages of the console. */
export type Lang = 'en' | 'zh';
/** What replaces the placeholders. */
export type Params = Readonly<Record<string, string | number>>;

/** Each language with its texts and its locale for numbers and times. */
export const LANGS: Readonly<Record<Lang, { texts: Texts; locale: string; name: string }>> = {
  en: { texts: en, locale: 'en-GB', name: 'English' },
  zh: { texts: zh, locale: 'zh-CN', name: '中文' },
};

const PLACEHOLDER = /\{(\w+)\}/g;

/** The placeholders of a message, sorted, each once. */
export function placeholders(message: Message): string[] {
  const texts = typeof message === 'string' ? [message] : [message.one ?? '', message.other];
  const found = texts.flatMap((text) => [...text.matchAll(PLACEHOLDER)].map((match) => match[1] ?? ''));
  return [...new Set(found)].sort();
}

/** Makes the translator of a language. An unknown placeholder stays visible. */
export function translator(lang: Lang): (key: Key, params?: Params) => string {
  const { texts, locale } = LANGS[lang];
  const plural = new Intl.PluralRules(locale);
  const number = new Intl.NumberFormat(locale);
  return (key, params = {}) => {
    const message: Message = texts[key];
    const n = params.n;
    const text =
      typeof message === 'string'
        ? message
        : typeof n === 'number' && plural.select(n) === 'one' && message.one !== undefined
          ? message.one
          : message.other;
    return text.replace(PLACEHOLDER, (whole, name: string) => {
      const value = params[name];
      if (value === undefined) return whole;
      return typeof value === 'number' ? number.format(value) : value;
    });
  };
}

/** The language of a new reader. */
export function guessLang(wanted: readonly string[]): Lang {
  return (wanted[0] ?? 'en').toLowerCase().startsWith('zh') ? 'zh' : 'en';
}
