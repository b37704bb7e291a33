/** A state as word, colour and shape together. */
import { Tooltip } from 'antd';

import { useI18n } from '../i18n/context';
import { knownState, nodeLook, topicLook, type Look, type Shape } from '../lib/states';

const PATHS: Readonly<Record<Shape, string>> = {
  cross: 'M3 1.5 6 4.5 9 1.5 10.5 3 7.5 6 10.5 9 9 10.5 6 7.5 3 10.5 1.5 9 4.5 6 1.5 3Z',
  triangle: 'M6 1 11.5 11H.5Z',
  diamond: 'M6 .5 11.5 6 6 11.5.5 6Z',
  bar: 'M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1M2.8 5v2h6.4V5Z',
  twin: 'M1 1h7v7H1ZM9.2 4H11v7H4V9.2h5.2Z',
  square: 'M1.5 1.5h9v9h-9ZM3.5 3.5v5h5v-5Z',
  half: 'M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1M6 2.6v6.8a3.4 3.4 0 0 0 0-6.8',
  circle: 'M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1',
  ring: 'M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1M6 2.8a3.2 3.2 0 1 0 0 6.4 3.2 3.2 0 0 0 0-6.4',
};

function Mark({ look, word, hint }: { look: Look; word: string; hint: string }) {
  return (
    <Tooltip title={hint}>
      <span className={`state tone-${look.tone}`}>
        <svg viewBox="0 0 12 12" width="11" height="11" aria-hidden="true">
          <path d={PATHS[look.shape]} fill="currentColor" fillRule="evenodd" />
        </svg>
        {word}
      </span>
    </Tooltip>
  );
}

/** A topic's state. The hint says why; it is made by `topicWhy`. */
export function TopicMark({ state, hint = '' }: { state: string; hint?: string }) {
  const { t } = useI18n();
  const word = t(`state.${knownState(state) ?? 'unknown'}`);
  return <Mark look={topicLook(state)} word={word} hint={hint} />;
}

/** An agent's or bus node's state. */
export function NodeMark({ state, hint = '' }: { state: string; hint?: string }) {
  const { t } = useI18n();
  return <Mark look={nodeLook(state)} word={t(state === 'live' ? 'state.live' : 'state.silent')} hint={hint} />;
}

/** Whether a destination is up. */
export function DestinationMark({ name, state, hint = '' }: { name: string; state: string; hint?: string }) {
  const { t } = useI18n();
  const up = state === 'up';
  const look: Look = up ? { tone: 'good', shape: 'circle' } : { tone: 'bad', shape: 'triangle' };
  return <Mark look={look} word={`${name} ${t(up ? 'nodes.destination.up' : 'nodes.destination.down')}`} hint={hint} />;
}

/** Whether agents are spread evenly over a bus cluster. */
export function SpreadMark({ uneven, percent }: { uneven: boolean; percent: number }) {
  const { t } = useI18n();
  const look: Look = uneven ? { tone: 'warn', shape: 'half' } : { tone: 'good', shape: 'circle' };
  const word = uneven ? `${t('clusters.uneven')} ${percent} %` : t('clusters.even');
  return <Mark look={look} word={word} hint={t('clusters.spread', { percent })} />;
}
