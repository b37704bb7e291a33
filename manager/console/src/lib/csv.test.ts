import { expect, it } from 'vitest';

import { fileName, toCsv } from './csv';

it('quotes what must be quoted', () => {
  expect(toCsv([['a', 'b,c', 'd"e', 'f\ng'], [1, -2, null, undefined]])).toBe(
    'a,"b,c","d""e","f\ng"\r\n1,-2,,\r\n',
  );
});

it('lets no text become a formula', () => {
  expect(toCsv([['=1+1', '@x', '-a']])).toBe("'=1+1,'@x,'-a\r\n");
});

it('names files by their range', () => {
  expect(fileName('web/access', 0, 3_600_000)).toBe('web_access_19700101T0000Z_19700101T0100Z.csv');
});
