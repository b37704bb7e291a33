// Fails when the first load of the topics page, gzipped, is larger than the budget. Charts are not
// part of it: they load after the figures stand. Run by `npm run build`.
import { readFileSync, rmSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const BUDGET_KB = 500;
const FIRST = ['index.html', 'src/pages/topics/page.tsx'];

const dist = new URL('../dist/', import.meta.url);
const manifest = JSON.parse(readFileSync(new URL('.vite/manifest.json', dist), 'utf8'));
// Only this script needs the manifest; what is left in dist/ is served.
rmSync(new URL('.vite', dist), { recursive: true });
const files = new Set(['index.html']);
const visit = (key) => {
  const entry = manifest[key];
  if (entry === undefined) throw new Error(`the manifest has no ${key}`);
  if (files.has(entry.file)) return;
  files.add(entry.file);
  for (const css of entry.css ?? []) files.add(css);
  for (const next of entry.imports ?? []) visit(next);
};
FIRST.forEach(visit);
const kb = [...files].reduce((sum, file) => sum + gzipSync(readFileSync(new URL(file, dist))).length, 0) / 1000;
console.log(`first load: ${kb.toFixed(0)} kB gzip in ${files.size} files (budget ${BUDGET_KB} kB)`);
if (kb > BUDGET_KB) {
  console.error('the first load is over its budget');
  process.exit(1);
}
