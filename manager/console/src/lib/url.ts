/** The view's state in the URL, so that a link shows the same view. */
import { useCallback } from 'react';
import { useSearchParams } from 'react-router';

import { readRange, writeRange, type Range } from './range';

/** One parameter as a string. An empty value leaves the URL. Typing replaces the history entry. */
export function useParam(name: string): [string, (value: string) => void] {
  const [params, setParams] = useSearchParams();
  const set = useCallback(
    (value: string) => {
      setParams(
        (old) => {
          const next = new URLSearchParams(old);
          if (value === '') next.delete(name);
          else next.set(name, value);
          return next;
        },
        { replace: true },
      );
    },
    [name, setParams],
  );
  return [params.get(name) ?? '', set];
}

/** The page's range. Each choice is a step of the history. */
export function useRange(): [Range, (range: Range) => void] {
  const [params, setParams] = useSearchParams();
  const set = useCallback(
    (range: Range) => {
      setParams((old) => writeRange(old, range));
    },
    [setParams],
  );
  return [readRange(params), set];
}
