/** The cache's keys, so that the live stream and the queries mean the same entry. */

/** All topics of a range. */
export function topicsKey(range: string): readonly string[] {
  return ['topics', range];
}
