/**
 * How states look: one order, one tone and one shape each, the same in lists, details and charts.
 * The words are the manager's (`docs/states.md`); this file decides nothing about them.
 */

/** Topic states, worst first, as the manager names them. */
export const TOPIC_STATES = [
  'losing',
  'dropped',
  'refused',
  'dead_letters',
  'doubled',
  'silent',
  'in_flight',
  'whole',
  'idle',
] as const;
/** One of them. */
export type TopicState = (typeof TOPIC_STATES)[number];

/** What a colour means. */
export type Tone = 'bad' | 'warn' | 'busy' | 'good' | 'quiet';
/** Shapes, so that colour is never alone. */
export type Shape = 'triangle' | 'diamond' | 'square' | 'half' | 'circle' | 'ring' | 'twin' | 'bar' | 'cross';

/** A state's look. */
export interface Look {
  readonly tone: Tone;
  readonly shape: Shape;
}

const TOPIC_LOOKS: Readonly<Record<TopicState, Look>> = {
  losing: { tone: 'bad', shape: 'triangle' },
  dropped: { tone: 'bad', shape: 'diamond' },
  refused: { tone: 'bad', shape: 'bar' },
  dead_letters: { tone: 'bad', shape: 'cross' },
  doubled: { tone: 'warn', shape: 'twin' },
  silent: { tone: 'warn', shape: 'square' },
  in_flight: { tone: 'busy', shape: 'half' },
  whole: { tone: 'good', shape: 'circle' },
  idle: { tone: 'quiet', shape: 'ring' },
};

/** The state when the console knows it: a newer manager may name others. */
export function knownState(state: string): TopicState | null {
  return TOPIC_STATES.find((known) => known === state) ?? null;
}

/** The look of a topic's state. */
export function topicLook(state: string): Look {
  const known = knownState(state);
  return known === null ? { tone: 'quiet', shape: 'ring' } : TOPIC_LOOKS[known];
}

/** The look of a node's state. */
export function nodeLook(state: string): Look {
  return state === 'live' ? { tone: 'good', shape: 'circle' } : { tone: 'warn', shape: 'square' };
}

/** For sorting: 0 is the worst. Unknown states come before the harmless ones. */
export function severity(state: string): number {
  const known = knownState(state);
  return known === null ? TOPIC_STATES.indexOf('in_flight') - 0.5 : TOPIC_STATES.indexOf(known);
}
