/** A topic's state in a sentence. Pure. */
import type { TopicSummary } from '../api/types';
import type { Key, Params } from '../i18n';
import type { Formatter } from './format';
import { knownState } from './states';

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
    case 'doubled':
      return t('state.doubled.why', { n: counts.doubled });
    case 'silent':
      return t('state.silent.why', { n: topic.silent_agents });
    case 'in_flight':
      return t('state.in_flight.why', { n: counts.in_flight });
    case 'whole':
      return t('state.whole.why', { n: counts.read });
    case 'idle':
      return t('state.idle.why');
    case null:
      return t('state.unknown.why');
  }
}
