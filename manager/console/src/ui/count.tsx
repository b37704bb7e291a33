/** An absolute count in a table or figure. Zero is quiet, trouble is loud. */
import { useI18n } from '../i18n/context';

/** The counts that should be 0, and how bad it is when they are not. */
const TROUBLE: Readonly<Record<string, 'bad' | 'warn'>> = {
  unexplained: 'bad',
  dropped: 'bad',
  refused: 'bad',
  doubled: 'warn',
  dead: 'bad',
  purged: 'warn',
};

/** The class of a count's figure. */
export function countClass(name: string, value: number): string {
  if (value === 0) return 'num zero';
  // Less than nothing is missing: more losses were told than there are.
  const trouble = value < 0 ? 'warn' : TROUBLE[name];
  return trouble === undefined ? 'num' : `num loud tone-${trouble}`;
}

/** A figure with its test id. */
export function Count({ name, value, testId }: { name: string; value: number; testId?: string }) {
  const { fmt } = useI18n();
  return (
    <span className={countClass(name, value)} data-testid={testId}>
      {fmt.count(value)}
    </span>
  );
}
