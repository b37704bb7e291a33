// Opens the console of a running manager in a real browser and judges what stands there.
//
//   CONSOLE_URL=http://127.0.0.1:7500 EXPECT_TOPIC=web EXPECT_JSON='{"read":1234,"delivered":1234}' \
//   SHOTS_DIR=/tmp/shots npm run e2e
//
// EXPECT_TOPIC is waited for; EXPECT_JSON holds its counts, which the table and the topic's page
// must show to the record. Instead of both, TRIBUTARY_EXPECT='{"web":1234,"shop":99}' says how many
// records of each topic were read and must be delivered, with nothing else; the first one is opened.
// TRIBUTARY_OLD='{"archive":99}' names topics whose records are all older than a day, and how many.
// TRIBUTARY_DEAD='{"shop":{"read":9,"delivered":8,"dead":1}}' names topics with dead letters, and their counts.
// TRIBUTARY_UNEVEN names a bus cluster of the nodes left and right, whose agents are all at left: they are spread.
// TRIBUTARY_GROW is a file that the first topic is collected from: it gets one line more, and the
// page must show it by itself. SHOTS_DIR (or TRIBUTARY_SHOTS) gets a PNG per step. CONSOLE_URL may
// be called TRIBUTARY_URL. CHROMIUM is the browser's program. EXPECT_RANGE (default 24h) is the
// range that is looked at. Exit code 0: everything passed; 1: something did not; 2: called wrongly.
import { appendFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

const WAIT_MS = Number(process.env.E2E_WAIT_MS ?? 30_000);
const base = required('CONSOLE_URL', 'TRIBUTARY_URL').replace(/\/$/, '');
const expected = expectations();
const topic = Object.keys(expected)[0];
const old = JSON.parse(process.env.TRIBUTARY_OLD ?? '{}');
const dead = JSON.parse(process.env.TRIBUTARY_DEAD ?? '{}');
const uneven = process.env.TRIBUTARY_UNEVEN;
const grow = process.env.TRIBUTARY_GROW;
const range = process.env.EXPECT_RANGE ?? '24h';
const shots = process.env.SHOTS_DIR ?? process.env.TRIBUTARY_SHOTS;
const program = process.env.CHROMIUM ?? '/usr/bin/chromium';

function required(...names) {
  const value = names.map((name) => process.env[name]).find(Boolean);
  if (value) return value;
  console.error(`${names.join(' or ')} is not set; see the head of e2e/run.mjs`);
  process.exit(2);
}

/** The counts of each topic that must be shown. */
function expectations() {
  const totals = JSON.parse(process.env.TRIBUTARY_EXPECT ?? '{}');
  if (Object.keys(totals).length === 0) {
    return { [required('EXPECT_TOPIC', 'TRIBUTARY_EXPECT')]: JSON.parse(process.env.EXPECT_JSON ?? '{}') };
  }
  return Object.fromEntries(Object.entries(totals).map(([name, total]) => [name, whole(total)]));
}

/** The counts when all of so many records are delivered and nothing else is true. */
function whole(total) {
  const nothing = { in_flight: 0, refused: 0, dropped: 0, doubled: 0, unexplained: 0 };
  return { read: total, sent: total, received: total, delivered: total, ...nothing };
}

/** The figures of what is older than any range that ends now. */
function allOld() {
  return Object.fromEntries(Object.entries(old).map(([name, total]) => [name, whole(total)]));
}

let passed = 0;
const failures = [];

async function step(name, run) {
  try {
    await run();
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failures.push(name);
    console.error(`FAIL  ${name}\n      ${String(error.message ?? error).split('\n').slice(0, 6).join('\n      ')}`);
    await shot(`failed-${failures.length}`);
  }
}

function check(condition, message) {
  if (!condition) throw new Error(message);
}

const profile = mkdtempSync(join(tmpdir(), 'tributary-e2e-'));
if (shots) mkdirSync(shots, { recursive: true });
const context = await chromium.launchPersistentContext(profile, {
  executablePath: program,
  headless: true,
  locale: 'en-GB',
  colorScheme: 'light',
  viewport: { width: 1280, height: 800 },
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});
const page = context.pages()[0] ?? (await context.newPage());
page.setDefaultTimeout(WAIT_MS);

/** What a reader of the browser's console would see. */
const troubles = [];
page.on('console', (message) => {
  if (['error', 'warning'].includes(message.type())) troubles.push(`console ${message.type()}: ${message.text()}`);
});
page.on('pageerror', (error) => troubles.push(`exception: ${error.message}`));
page.on('requestfailed', (request) => {
  // Leaving a page ends its questions and its live stream: that is no failure.
  const reason = request.failure()?.errorText ?? '';
  if (reason !== 'net::ERR_ABORTED') troubles.push(`request failed: ${request.url()} ${reason}`);
});
page.on('response', (response) => {
  if (response.status() >= 400) troubles.push(`HTTP ${response.status()}: ${response.url()}`);
});

async function shot(name) {
  if (shots) await page.screenshot({ path: join(shots, `${name}.png`) });
}

const id = (testId) => page.locator(`[data-testid=${JSON.stringify(testId)}]`);
const digits = (text) => (text === '-' ? null : Number(text.replaceAll(/[^\d−-]/g, '').replace('−', '-')));

/** Columns of the table; the topic's page shows the counts among them. */
const COUNTS = [
  'read',
  'sent',
  'received',
  'delivered',
  'in_flight',
  'duplicates_removed',
  'refused',
  'dropped',
  'doubled',
  'unexplained',
  'dead',
  'purged',
];

/** Waits until a topic's expected figures are shown under `prefix`; says which are not. */
async function figures(prefix, of = topic, counts = expected[of]) {
  const wanted = Object.entries(counts).filter(([name]) => COUNTS.includes(name));
  const deadline = Date.now() + WAIT_MS;
  for (;;) {
    const wrong = [];
    for (const [name, value] of wanted) {
      const cell = id(`${prefix}-${of}-${name}`);
      const shown = (await cell.count()) === 1 ? await cell.innerText() : 'nothing';
      const same = typeof value === 'number' ? digits(shown) === value : shown === value;
      if (!same) wrong.push(`${name}: shown ${shown}, expected ${value}`);
    }
    if (wrong.length === 0) return;
    if (Date.now() > deadline) throw new Error(wrong.join('; '));
    await page.waitForTimeout(250);
  }
}

try {
  await step('the first address leads to the topics', async () => {
    await page.goto(`${base}/`);
    await page.waitForURL(/\/topics$/);
  });

  await step(`topic ${topic} appears`, async () => {
    await page.goto(`${base}/topics?range=${range}`);
    await id(`topic-${topic}`).waitFor();
  });

  await step('the table shows the expected figures', async () => {
    const unknown = Object.values(expected).flatMap(Object.keys).filter((name) => !COUNTS.includes(name) && name !== 'ahead');
    check(unknown.length === 0, `EXPECT_JSON names no column with ${unknown.join(', ')}`);
    for (const name of Object.keys(expected)) await figures('cell', name);
    await shot('topics');
  });

  await step('the figures are live', async () => {
    await page.locator('[data-testid=live][data-link=live]').waitFor();
  });

  if (grow) {
    await step('a new line is shown without a reload', async () => {
      appendFileSync(grow, 'one more line, written while the page is open\n');
      expected[topic] = whole(expected[topic].read + 1);
      await figures('cell');
    });
  }

  await step('the charts are drawn', async () => {
    await page.locator('.chart canvas').nth(1).waitFor();
    const drawn = await page.locator('.chart canvas').first().evaluate((canvas) => {
      const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      return pixels.some((value, index) => index % 4 === 3 && value > 0);
    });
    check(drawn, 'the first chart is empty');
  });

  await step('slash searches, and the search stands in the address', async () => {
    await page.keyboard.press('/');
    await page.keyboard.type(topic);
    await page.waitForURL((url) => url.searchParams.get('q') === topic);
    await id(`topic-${topic}`).waitFor();
    await page.keyboard.press('Control+A');
    await page.keyboard.type('no such topic here');
    await id('empty').waitFor();
    await page.keyboard.press('Control+A');
    await page.keyboard.type(topic);
    await id(`topic-${topic}`).waitFor();
    await page.keyboard.press('Escape');
  });

  await step('the question mark lists the keys', async () => {
    await page.keyboard.press('?');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
  });

  await step('j and Enter open the topic', async () => {
    await page.keyboard.press('j');
    await page.locator('tr.row-selected').waitFor();
    // A name may be part of others: move on until it is the selected one.
    for (let row = 0; row < 50; row += 1) {
      if ((await page.locator('tr.row-selected').getAttribute('data-row-key')) === topic) break;
      await page.keyboard.press('j');
    }
    await page.keyboard.press('Enter');
    await page.waitForURL((url) => url.pathname === `/topics/${encodeURIComponent(topic)}`);
    await id('topic-title').waitFor();
    check((await id('topic-title').innerText()) === topic, 'the title is not the topic');
  });

  await step('the topic shows the expected figures', async () => {
    await figures('hop');
    await page.locator('.chart canvas').nth(1).waitFor();
    await shot('topic');
  });

  await step('losses and hosts have their tabs', async () => {
    for (const tab of ['losses', 'hosts']) {
      await id(`tab-${tab}`).click();
      await page.waitForURL((url) => url.searchParams.get('tab') === tab);
      await shot(`topic-${tab}`);
    }
  });

  await step('the address alone opens the same view', async () => {
    await page.reload();
    await id('topic-title').waitFor();
    check(new URL(page.url()).searchParams.get('tab') === 'hosts', 'the tab is gone');
  });

  await step('Escape leads back to the list as it was', async () => {
    await page.keyboard.press('Escape');
    await page.waitForURL((url) => url.pathname === '/topics' && url.searchParams.get('q') === topic);
    // The address changes before the page does: both pages have a range, and the next click is for the list's.
    await id('topic-title').waitFor({ state: 'detached' });
    await id(`topic-${topic}`).waitFor();
  });

  await step('another range is one click away, and stands in the address', async () => {
    await id('range-custom').click();
    await page.locator('.custom-range button').click();
    await page.waitForURL((url) => url.searchParams.has('from') && url.searchParams.has('to'));
    await page.goBack();
    await page.waitForURL((url) => url.searchParams.get('range') === range);
    await id(`topic-${topic}`).waitFor();
  });

  for (const [name, counts] of Object.entries(allOld())) {
    await step(`${name} has its records in all, and none in this range`, async () => {
      await page.goto(`${base}/topics?range=${range}`);
      await figures('cell', name, whole(0));
      check(digits(await id(`cell-${name}-total_read`).innerText()) === counts.read, 'the total is not shown');
      check((await id(`cell-${name}-state`).getAttribute('data-state')) === 'idle', 'it is not idle');
      await shot('topics-outside');
    });

    await step('one click shows all times', async () => {
      await id('outside').getByRole('button').click();
      await page.waitForURL((url) => url.searchParams.get('range') === 'all');
      await figures('cell', name, counts);
      await id('outside').waitFor({ state: 'detached' });
      await shot('topics-all');
    });

    await step(`the page of ${name} says where its records are, and shows them`, async () => {
      await page.goto(`${base}/topics/${encodeURIComponent(name)}?range=1h`);
      await figures('hop', name, whole(0));
      await id('show-all').click();
      await page.waitForURL((url) => url.searchParams.get('range') === 'all');
      await figures('hop', name, counts);
      const rows = page.locator('.tabs tr[data-row-key]');
      await rows.first().waitFor();
      const shown = await rows.evaluateAll((found) => found.map((row) => row.cells[1].innerText));
      const sum = shown.map(digits).reduce((a, b) => a + b, 0);
      check(sum === counts.read, `the minutes sum up to ${sum}, not ${counts.read}`);
      await page.locator('.chart canvas').nth(1).waitFor();
      await shot('topic-all');
      await page.goto(`${base}/topics?range=${range}`);
      await id(`topic-${topic}`).waitFor();
    });
  }

  for (const [name, counts] of Object.entries(dead)) {
    await step(`${name} says that it has dead letters`, async () => {
      await page.goto(`${base}/topics?range=${range}`);
      const state = id(`cell-${name}-state`);
      await state.waitFor();
      check((await state.getAttribute('data-state')) === 'dead_letters', 'its state is another one');
      await shot('topics-dead');
    });

    await step(`the page of ${name} counts them, and says which destination refuses them and why`, async () => {
      await page.goto(`${base}/topics/${encodeURIComponent(name)}?range=${range}&tab=dead`);
      await figures('hop', name, counts);
      const row = page.locator('.tabs tr[data-row-key]');
      await row.first().waitFor();
      const shown = await row.first().innerText();
      check(/mapper_parsing_exception/.test(shown) && shown.includes(String(counts.dead)), `the row says ${shown}`);
      check((await id('tab-dead').innerText()).includes(String(counts.dead)), 'the tab does not count them');
      await shot('topic-dead');
    });

    await step('the node that keeps them lists them', async () => {
      await page.goto(`${base}/nodes?q=bus-9`);
      await page.locator('tr[data-row-key]').first().click();
      const kept = id('dead-of-bus-9');
      await kept.waitFor();
      check((await kept.innerText()).includes('mapper_parsing_exception'), 'the reason is not there');
      await shot('node-dead');
      await page.goto(`${base}/topics?range=${range}`);
      await id(`topic-${topic}`).waitFor();
    });
  }

  if (uneven) {
    const button = id(`rebalance-${uneven}`);
    // Its name begins with that of its spinner, which may stay behind unseen: a picture taken while it goes cuts its
    // transition short, and who waits for the end of that is never told.
    const confirm = page.getByRole('dialog').getByRole('button', { name: /Hand over/ });

    await step(`${uneven} says that it is uneven, and what a window would move`, async () => {
      await page.goto(`${base}/nodes`);
      await page.waitForFunction((testId) => {
        const shown = document.querySelector(`[data-testid=${JSON.stringify(testId)}]`)?.innerText ?? '';
        return shown.includes('uneven 200 %') && shown.includes('2 nodes');
      }, `cluster-${uneven}`);
      await button.click();
      const rows = await id('plan').locator('tbody tr').allInnerTexts();
      const [left, right] = rows.map((row) => row.split('\t'));
      check(left?.join(' ') === 'left 2 1 1' && right?.join(' ') === 'right 0 ≤ 1 0', `the plan is ${rows}`);
      await page.waitForTimeout(300);
      await shot('rebalance-plan');
    });

    await step('what the manager refuses is said in its words, and nothing is opened', async () => {
      const before = troubles.length;
      await page.route('**/rebalance', (route) => {
        const asked = route.request().postDataJSON();
        return route.continue({ postData: JSON.stringify({ ...asked, nodes: ['left', 'gone'] }) });
      });
      await confirm.click();
      await id('refused').waitFor();
      const said = await id('refused').innerText();
      check(said.includes(`cluster ${uneven} has no node`) && said.includes('left, right'), `it says ${said}`);
      await shot('rebalance-refused');
      await page.locator('.ant-modal .ant-btn-loading').waitFor({ state: 'detached' });
      await page.unroute('**/rebalance');
      // The browser tells of a refusal that was asked for.
      troubles.splice(before);
    });

    await step('a window is opened, spreads the agents, and is in the record', async () => {
      await confirm.click();
      await id('plan').waitFor({ state: 'hidden' });
      await page.locator(`[data-testid=window-${uneven}][data-state=even]`).waitFor();
      for (const node of ['left', 'right']) {
        const has = await id(`has-${node}`).innerText();
        check(digits(has) === 1, `${has}`);
      }
      check(await button.isDisabled(), 'an even cluster is offered a window');
      await id('records').locator('summary').click();
      const record = id('records').locator('tbody tr').first();
      await record.getByText('even after 1').waitFor();
      check((await record.innerText()).includes('127.0.0.1'), 'the record does not say from where');
      await shot('rebalance-done');
      await page.goto(`${base}/topics?range=${range}`);
      await id(`topic-${topic}`).waitFor();
    });
  }

  await step('Chinese is complete at once', async () => {
    await id('language').click();
    await page.getByRole('menuitem', { name: '中文' }).click();
    await page.waitForFunction(() => document.documentElement.lang === 'zh-CN');
    await page.getByRole('columnheader', { name: '送达' }).waitFor();
    await figures('cell');
    await shot('topics-zh');
  });

  await step('dark mode is dark', async () => {
    await id('theme').click();
    await page.getByRole('menuitem', { name: '深色' }).click();
    await page.waitForFunction(() => document.documentElement.dataset.theme === 'dark');
    const luminance = await page.evaluate(() => {
      const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
      return r + g + b;
    });
    check(luminance < 120, `the page's background is not dark: ${luminance}`);
    await page.waitForTimeout(300);
    await shot('topics-zh-dark');
  });

  await step('language and dark mode are remembered', async () => {
    await page.reload();
    await page.waitForFunction(() => document.documentElement.dataset.theme === 'dark');
    await id(`topic-${topic}`).waitFor();
    check((await page.evaluate(() => document.documentElement.lang)) === 'zh-CN', 'the language is forgotten');
  });

  await step('the nodes have their page', async () => {
    await page.keyboard.press('g');
    await page.keyboard.press('n');
    await page.waitForURL(/\/nodes/);
    await page.locator('tr[data-row-key], [data-testid=empty]').first().waitFor();
    await page.waitForTimeout(300);
    await shot('nodes-zh-dark');
  });

  await step('the browser saw no errors and no failed requests', async () => {
    check(troubles.length === 0, troubles.slice(0, 5).join('\n'));
  });

  await step('a manager that fails is named with its words, and asked again', async () => {
    const body = JSON.stringify({ error: { code: 'internal', message: 'the disk is on fire' } });
    await page.route('**/api/v1/**', (route) => route.fulfill({ status: 500, contentType: 'application/json', body }));
    await page.goto(`${base}/topics?range=${range}`);
    await id('error').first().waitFor();
    check((await id('error').first().innerText()).includes('the disk is on fire'), 'the reason is not shown');
    await shot('error-500');
    await page.unroute('**/api/v1/**');
    await id('error').first().getByRole('button').click();
    await id(`topic-${topic}`).waitFor();
  });

  await step('a manager that is gone is told from one that fails', async () => {
    await page.route('**/api/v1/**', (route) => route.abort('connectionrefused'));
    for (const path of ['topics', `topics/${encodeURIComponent(topic)}`, 'nodes']) {
      await page.goto(`${base}/${path}`);
      await id('error').first().waitFor();
      await shot(`error-gone-${path.split('/').length === 1 ? path : 'topic'}`);
    }
    await page.unroute('**/api/v1/**');
  });
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}

console.log(`${passed} passed, ${failures.length} failed`);
process.exit(failures.length === 0 ? 0 : 1);
