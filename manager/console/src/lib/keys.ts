/** Keyboard shortcuts of pages. Plain keys only: what has Ctrl, Alt or Meta is the browser's. */
import { useEffect, useEffectEvent } from 'react';

/** How long the second key of a sequence may take, in ms. */
const SEQUENCE_MS = 1_000;

/** Handlers by key, as `KeyboardEvent.key` names it, or by two keys, as `g t`. */
export type Shortcuts = Readonly<Record<string, (event: KeyboardEvent) => void>>;

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName))
  );
}

/** Whether a dialog or menu is open, which then owns the keyboard. */
function isCovered(): boolean {
  return document.querySelector('[role="dialog"][aria-modal="true"]:not([style*="display: none"])') !== null;
}

/** Listens while the component is mounted. While the reader types, only Escape is a shortcut. */
export function useShortcuts(shortcuts: Shortcuts): void {
  const onKey = useEffectEvent((event: KeyboardEvent, before: string): void => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented || isCovered()) return;
    if (isTyping(event.target) && event.key !== 'Escape') return;
    const handler = shortcuts[`${before} ${event.key}`] ?? shortcuts[event.key];
    handler?.(event);
  });
  useEffect(() => {
    let before = '';
    let beforeMs = 0;
    const listen = (event: KeyboardEvent) => {
      const now = Date.now();
      onKey(event, now - beforeMs < SEQUENCE_MS ? before : '');
      before = event.key;
      beforeMs = now;
    };
    window.addEventListener('keydown', listen);
    return () => {
      window.removeEventListener('keydown', listen);
    };
  }, []);
}
