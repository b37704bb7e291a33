/** A choice of the reader that this browser remembers. */
import { useCallback, useState } from 'react';

function load<T>(key: string, initial: T, valid: (value: unknown) => value is T): T {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(key) ?? 'null');
    return valid(value) ? value : initial;
  } catch {
    // Storage may be forbidden or hold another version's value; the initial one is always right.
    return initial;
  }
}

/** Like `useState`, kept under `tributary.<name>`. */
export function useStored<T>(
  name: string,
  initial: T,
  valid: (value: unknown) => value is T,
): [T, (value: T) => void] {
  const key = `tributary.${name}`;
  const [value, setValue] = useState<T>(() => load(key, initial, valid));
  const store = useCallback(
    (next: T) => {
      setValue(next);
      try {
        localStorage.setItem(key, JSON.stringify(next));
      } catch {
        // Then the choice holds until the tab is closed.
      }
    },
    [key],
  );
  return [value, store];
}
