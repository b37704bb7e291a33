/** The reader's language for React components. */
import { createContext, use } from 'react';

import { formatter, type Formatter } from '../lib/format';
import { LANGS, translator, type Key, type Lang, type Params } from './index';

/** Translator and formatter of a language. */
export interface I18n {
  readonly lang: Lang;
  readonly t: (key: Key, params?: Params) => string;
  readonly fmt: Formatter;
}

/** Makes what a language needs. */
export function makeI18n(lang: Lang): I18n {
  const t = translator(lang);
  return { lang, t, fmt: formatter(LANGS[lang].locale, t) };
}

/** Provided by `shell/preferences.tsx`. */
export const I18nContext = createContext<I18n>(makeI18n('en'));

/** The reader's translator and formatter. */
export function useI18n(): I18n {
  return use(I18nContext);
}
