import { describe, expect, it } from 'vitest';

import { translator } from '../i18n';
import { formatter } from './format';

const fmt = formatter('en-GB', translator('en'), 'Asia/Shanghai');

describe('formatter', () => {
  it('writes counts in full, unknown as a dash and zero as zero', () => {
    expect(fmt.count(181_204_113)).toBe('181,204,113');
    expect(fmt.count(0)).toBe('0');
    expect(fmt.count(null)).toBe('-');
    expect(fmt.count(undefined)).toBe('-');
    expect(fmt.count(Number.NaN)).toBe('-');
    expect(fmt.signed(-12)).toBe('−12');
    expect(fmt.signed(7)).toBe('+7');
  });

  it('writes rates with as many decimals as they deserve', () => {
    expect(fmt.rate(0)).toBe('0');
    expect(fmt.rate(0.001)).toBe('<0.01');
    expect(fmt.rate(3.456)).toBe('3.46');
    expect(fmt.rate(34.56)).toBe('34.6');
    expect(fmt.rate(12_345.6)).toBe('12,346');
  });

  it('never rounds a share to nothing or to all', () => {
    expect(fmt.ppm(0, 10)).toBe('0');
    expect(fmt.ppm(1, 1e12)).toBe('<0.01');
    expect(fmt.ppm(1, 1e6)).toBe('1');
    expect(fmt.ppm(10 ** 12 - 1, 1e12)).toBe('>999,999');
    expect(fmt.ppm(5, 5)).toBe('1,000,000');
    expect(fmt.ppm(0, 0)).toBe('-');
  });

  it('writes sizes with binary units', () => {
    expect(fmt.bytes(0)).toBe('0 B');
    expect(fmt.bytes(1023)).toBe('1,023 B');
    expect(fmt.bytes(1536)).toBe('1.5 KiB');
    expect(fmt.bytes(null)).toBe('-');
  });

  it('writes times in the zone of the reader, and in UTC', () => {
    const ms = Date.UTC(2026, 10, 21, 4, 41, 7);
    expect(fmt.dateTime(ms)).toBe('2026-11-21 12:41:07');
    expect(fmt.minute(ms)).toBe('2026-11-21 12:41');
    expect(fmt.clock(ms)).toBe('12:41');
    expect(fmt.utc(ms)).toBe('2026-11-21 04:41:07 UTC');
  });

  it('writes ages in the unit that is read at a glance', () => {
    expect(fmt.ago(900)).toBe('just now');
    expect(fmt.ago(23_000)).toBe('23 s ago');
    expect(fmt.age(119_000)).toBe('119 s');
    expect(fmt.age(180_000)).toBe('3 min');
    expect(fmt.age(3 * 3_600_000)).toBe('3 h');
    expect(fmt.age(3 * 86_400_000)).toBe('3 d');
  });
});
