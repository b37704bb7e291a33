/** Language and appearance: remembered by the browser, applied to the whole console. */
import { ConfigProvider, theme as antTheme, type ThemeConfig } from 'antd';
import enGB from 'antd/locale/en_GB';
import zhCN from 'antd/locale/zh_CN';
import { createContext, use, useLayoutEffect, useMemo, useSyncExternalStore, type ReactNode } from 'react';

import { guessLang, LANGS, type Lang } from '../i18n';
import { I18nContext, makeI18n } from '../i18n/context';
import { useStored } from '../lib/stored';

/** What the reader chose. */
export type Mode = 'auto' | 'light' | 'dark';
/** All choices, in the order of the menu. */
export const MODES: readonly Mode[] = ['auto', 'light', 'dark'];

interface Preferences {
  readonly lang: Lang;
  readonly setLang: (lang: Lang) => void;
  readonly mode: Mode;
  readonly setMode: (mode: Mode) => void;
  /** What `mode` comes to now. */
  readonly dark: boolean;
}

const PreferencesContext = createContext<Preferences>({
  lang: 'en',
  setLang: () => undefined,
  mode: 'auto',
  setMode: () => undefined,
  dark: false,
});

/** The reader's choices and their setters. */
export function usePreferences(): Preferences {
  return use(PreferencesContext);
}

const isLang = (value: unknown): value is Lang => value === 'en' || value === 'zh';
const isMode = (value: unknown): value is Mode => MODES.some((mode) => mode === value);

function useSystemDark(): boolean {
  return useSyncExternalStore(
    (changed) => {
      const query = matchMedia('(prefers-color-scheme: dark)');
      query.addEventListener('change', changed);
      return () => {
        query.removeEventListener('change', changed);
      };
    },
    () => matchMedia('(prefers-color-scheme: dark)').matches,
  );
}

/** Ant Design in the console's measure: dense, flat, system fonts. Colours match `styles.css`. */
function antConfig(dark: boolean): ThemeConfig {
  return {
    algorithm: dark ? antTheme.darkAlgorithm : antTheme.defaultAlgorithm,
    token: {
      fontFamily: 'var(--font)',
      fontSize: 13,
      controlHeight: 28,
      borderRadius: 4,
      colorPrimary: dark ? '#3b8eea' : '#1668b8',
      colorInfo: dark ? '#3b8eea' : '#1668b8',
      colorBgContainer: dark ? '#171b21' : '#ffffff',
      colorBgElevated: dark ? '#1f242c' : '#ffffff',
      colorBgLayout: dark ? '#0f1216' : '#f4f5f7',
      colorBorderSecondary: dark ? '#2a3038' : '#e4e7eb',
      motionDurationMid: '0.1s',
      motionDurationSlow: '0.15s',
    },
    components: {
      Table: {
        cellPaddingBlockSM: 5,
        cellPaddingInlineSM: 8,
        cellFontSizeSM: 13,
        headerBg: dark ? '#1b2027' : '#f8f9fa',
        headerSplitColor: 'transparent',
        headerSortActiveBg: dark ? '#1b2027' : '#f8f9fa',
        headerSortHoverBg: dark ? '#262d36' : '#eef1f5',
        bodySortBg: 'transparent',
        rowHoverBg: dark ? '#1f262f' : '#f2f6fb',
      },
    },
  };
}

/** Provides language, appearance and Ant Design's configuration. */
export function PreferencesProvider({ children }: { children: ReactNode }) {
  const [lang, setLang] = useStored<Lang>('lang', guessLang(navigator.languages), isLang);
  const [mode, setMode] = useStored<Mode>('theme', 'auto', isMode);
  const systemDark = useSystemDark();
  const dark = mode === 'dark' || (mode === 'auto' && systemDark);
  const i18n = useMemo(() => makeI18n(lang), [lang]);
  const config = useMemo(() => antConfig(dark), [dark]);
  const value = useMemo(() => ({ lang, setLang, mode, setMode, dark }), [lang, setLang, mode, setMode, dark]);

  // Before the charts' effects, which read the colours of the mode.
  useLayoutEffect(() => {
    document.documentElement.dataset.theme = dark ? 'dark' : 'light';
    document.documentElement.lang = LANGS[lang].locale;
  }, [dark, lang]);

  return (
    <PreferencesContext value={value}>
      <I18nContext value={i18n}>
        <ConfigProvider theme={config} locale={lang === 'zh' ? zhCN : enGB}>
          {children}
        </ConfigProvider>
      </I18nContext>
    </PreferencesContext>
  );
}
