/** What stands around every page: name, menu of the pages that exist, preferences, keyboard. */
import {
  BulbOutlined,
  ClusterOutlined,
  GlobalOutlined,
  LeftOutlined,
  QuestionCircleOutlined,
  RightOutlined,
  UnorderedListOutlined,
} from '@ant-design/icons';
import { Button, Dropdown, Modal, Tooltip } from 'antd';
import { Suspense, useState, type ReactNode } from 'react';
import { NavLink, Outlet, useLocation, useNavigate } from 'react-router';

import { LANGS, type Key, type Lang } from '../i18n';
import { useI18n } from '../i18n/context';
import { useShortcuts } from '../lib/keys';
import { useStored } from '../lib/stored';
import { Loading } from '../ui/notice';
import { MODES, usePreferences } from './preferences';

interface Page {
  readonly path: string;
  readonly label: Key;
  readonly icon: ReactNode;
}

/** The menu; a later page adds its line here and its route in `app.tsx`. */
const PAGES: readonly Page[] = [
  { path: '/topics', label: 'nav.topics', icon: <UnorderedListOutlined /> },
  { path: '/nodes', label: 'nav.nodes', icon: <ClusterOutlined /> },
];

const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';

/** The frame of every page. */
export function Shell() {
  const { t } = useI18n();
  const navigate = useNavigate();
  const [help, setHelp] = useState(false);
  const [narrow, setNarrow] = useStored('nav.narrow', window.innerWidth < 1500, isBoolean);
  useShortcuts({
    '?': () => {
      setHelp(true);
    },
    'g t': () => void navigate('/topics'),
    'g n': () => void navigate('/nodes'),
  });
  return (
    <div className={narrow ? 'shell shell-narrow' : 'shell'}>
      <a className="skip" href="#content">
        {t('app.skip')}
      </a>
      <header className="top">
        <NavLink to="/topics" className="brand">
          <img src="/favicon.svg" alt="" width={22} height={22} />
          <span>{t('app.name')}</span>
        </NavLink>
        <div className="top-right">
          <LanguageMenu />
          <ThemeMenu />
          <Tooltip title={t('keys.open')}>
            <Button
              type="text"
              icon={<QuestionCircleOutlined />}
              aria-label={t('keys.open')}
              onClick={() => {
                setHelp(true);
              }}
            />
          </Tooltip>
        </div>
      </header>
      <Menu narrow={narrow} setNarrow={setNarrow} />
      <main id="content" tabIndex={-1}>
        <Suspense fallback={<Loading rows={8} />}>
          <Outlet />
        </Suspense>
      </main>
      <KeysHelp
        open={help}
        onClose={() => {
          setHelp(false);
        }}
      />
    </div>
  );
}

function Menu({ narrow, setNarrow }: { narrow: boolean; setNarrow: (narrow: boolean) => void }) {
  const { t } = useI18n();
  const { search } = useLocation();
  const range = rangeOnly(search);
  const label = t(narrow ? 'nav.expand' : 'nav.collapse');
  return (
    <nav className="menu" aria-label={t('nav.label')}>
      {PAGES.map((page) => (
        <Tooltip key={page.path} title={narrow ? t(page.label) : ''} placement="right">
          <NavLink to={page.path + range} className="menu-item">
            {page.icon}
            <span className="menu-word">{t(page.label)}</span>
          </NavLink>
        </Tooltip>
      ))}
      <span className="menu-space" />
      <Tooltip title={label} placement="right">
        <Button
          type="text"
          size="small"
          icon={narrow ? <RightOutlined /> : <LeftOutlined />}
          aria-label={label}
          onClick={() => {
            setNarrow(!narrow);
          }}
        />
      </Tooltip>
    </nav>
  );
}

/** Another page keeps the range and nothing else. */
function rangeOnly(search: string): string {
  const params = new URLSearchParams(search);
  for (const name of [...params.keys()]) if (!['range', 'from', 'to'].includes(name)) params.delete(name);
  return params.size === 0 ? '' : `?${params.toString()}`;
}

function LanguageMenu() {
  const { t, lang } = useI18n();
  const { setLang } = usePreferences();
  const items = (Object.keys(LANGS) as Lang[]).map((key) => ({ key, label: LANGS[key].name }));
  return (
    <Dropdown
      trigger={['click']}
      menu={{
        items,
        selectable: true,
        selectedKeys: [lang],
        onClick: ({ key }) => {
          setLang(key === 'zh' ? 'zh' : 'en');
        },
      }}
    >
      <Button type="text" icon={<GlobalOutlined />} aria-label={t('pref.language')} data-testid="language">
        {LANGS[lang].name}
      </Button>
    </Dropdown>
  );
}

function ThemeMenu() {
  const { t } = useI18n();
  const { mode, setMode } = usePreferences();
  return (
    <Dropdown
      trigger={['click']}
      menu={{
        items: MODES.map((key) => ({ key, label: t(`pref.theme.${key}`) })),
        selectable: true,
        selectedKeys: [mode],
        onClick: ({ key }) => {
          setMode(MODES.find((known) => known === key) ?? 'auto');
        },
      }}
    >
      <Button type="text" icon={<BulbOutlined />} aria-label={t('pref.theme')} data-testid="theme" />
    </Dropdown>
  );
}

const KEYS: readonly (readonly [keys: string, what: Key])[] = [
  ['/', 'keys.search'],
  ['j', 'keys.down'],
  ['k', 'keys.up'],
  ['Enter', 'keys.enter'],
  ['Esc', 'keys.escape'],
  ['g t', 'keys.topics'],
  ['g n', 'keys.nodes'],
  ['?', 'keys.help'],
];

function KeysHelp({ open, onClose }: { open: boolean; onClose: () => void }) {
  const { t } = useI18n();
  return (
    <Modal open={open} onCancel={onClose} footer={null} title={t('keys.title')} width={380}>
      <dl className="keys">
        {KEYS.map(([keys, what]) => (
          <div key={keys}>
            <dt>
              {keys.split(' ').map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{t(what)}</dd>
          </div>
        ))}
      </dl>
    </Modal>
  );
}
