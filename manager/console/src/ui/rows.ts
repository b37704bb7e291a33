/** The selected row of a table, moved with `j` and `k`, opened with Enter. */
import { useState } from 'react';

import { useShortcuts } from '../lib/keys';

interface Rows {
  /** The selected key; `null` before the first `j`. */
  readonly selected: string | null;
  readonly select: (key: string) => void;
}

/** Keys in the order shown; `open` for Enter. */
export function useRows(keys: readonly string[], open: (key: string) => void): Rows {
  const [selected, select] = useState<string | null>(null);
  const move = (by: number) => {
    const at = selected === null ? -1 : keys.indexOf(selected);
    const next = keys[Math.min(keys.length - 1, Math.max(0, at + by))];
    if (next === undefined) return;
    select(next);
    const row = document.querySelector(`tr[data-row-key="${CSS.escape(next)}"]`);
    row?.scrollIntoView({ block: 'nearest' });
  };
  useShortcuts({
    j: () => {
      move(1);
    },
    k: () => {
      move(-1);
    },
    Enter: (event) => {
      // A focused button or link does what it says instead.
      if (event.target instanceof HTMLElement && event.target.closest('button, a') !== null) return;
      if (selected !== null && keys.includes(selected)) open(selected);
    },
  });
  return { selected, select };
}
