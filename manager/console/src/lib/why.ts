/** A topic's state in a sentence. Pure. */
import type { TopicSummary } from '../api/types';
import type { Key, Params } from '../i18n';
import { UNKNOWN, type Formatter } from './format';
import { isNothing } from './minutes';
import { knownState } from './states';

/** Whether a topic has records, but none of them within the range. */
export function isOutside({ counts, total }: TopicSummary): boolean {
  return isNothing(counts) && !isNothing(total);
}

/** Why a topic is in its state, in words with its figures. */
export function topicWhy(topic: TopicSummary, t: (key: Key, params?: Params) => string, fmt: Formatter): string {
  const { counts } = topic;
  switch (knownState(topic.state)) {
    case 'losing':
      return t('state.losing.why', { n: counts.unexplained });
    case 'dropped':
      return counts.dropped > 0
        ? t('state.dropped.why', { n: counts.dropped })
        : t('state.dropped.bytes.why', { bytes: fmt.bytes(topic.lost_bytes) });
    case 'refused':
      return t('state.refused.why', { n: counts.refused });
    case 'dead_letters':
      return t('state.dead_letters.why', { n: counts.dead });
    case 'doubled':
      return t('state.doubled.why', { n: counts.doubled });
    case 'silent':
      return t('state.silent.why', { n: topic.silent_agents });
    case 'in_flight':
      return t('state.in_flight.why', { n: counts.in_flight });
    case 'whole':
      return t('state.whole.why', { n: counts.read });
    case 'idle':
      return isOutside(topic) ? t('state.idle.outside.why', outside(topic, fmt)) : t('state.idle.why');
    case null:
      return t('state.unknown.why');
  }
}

/** How many records a topic has in all, and from when to when. */
function outside(topic: TopicSummary, fmt: Formatter): { n: number; from: string; to: string } {
  const minute = (ms: number | null | undefined) => (typeof ms === 'number' ? fmt.minute(ms) : UNKNOWN);
  return { n: topic.total.read, from: minute(topic.first_minute_ms), to: minute(topic.last_minute_ms) };
}
