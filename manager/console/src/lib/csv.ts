/** Tables as CSV (RFC 4180), and their download. */

type Cell = string | number | null | undefined;

/** Rows as CSV. A text that a spreadsheet would run as a formula gets an apostrophe before it. */
export function toCsv(rows: readonly (readonly Cell[])[]): string {
  return rows.map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';
}

function cell(value: Cell): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'number') return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A file name with the range's instants, which sorts by time. */
export function fileName(stem: string, fromMs: number, toMs: number): string {
  const stamp = (ms: number) => new Date(ms).toISOString().slice(0, 16).replaceAll(/[-:]/g, '');
  const safe = stem.replaceAll(/[^\w.-]+/g, '_');
  return `${safe}_${stamp(fromMs)}Z_${stamp(toMs)}Z.csv`;
}

/** Hands a CSV to the browser. The mark at its start tells spreadsheets that it is UTF-8. */
export function download(name: string, csv: string): void {
  const url = URL.createObjectURL(new Blob(['\uFEFF', csv], { type: 'text/csv;charset=utf-8' }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}
