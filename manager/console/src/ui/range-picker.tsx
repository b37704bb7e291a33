/** The range of a page: four that end now, or any other. */
import { Button, Popover, Segmented } from 'antd';
import { lazy, Suspense, useState } from 'react';

import { useI18n } from '../i18n/context';
import { NAMED, type Range } from '../lib/range';
import { Loading } from './notice';

// Seldom used.
const CustomRange = lazy(() => import('./custom-range'));

/** Shows and sets the range in the URL. */
export function RangePicker({ range, setRange }: { range: Range; setRange: (range: Range) => void }) {
  const { t, fmt } = useI18n();
  const [open, setOpen] = useState(false);
  const custom = range.kind === 'custom';
  const choose = (chosen: Range) => {
    setOpen(false);
    setRange(chosen);
  };
  return (
    <div className="range">
      <Segmented<string>
        aria-label={t('range.label')}
        options={NAMED.map((name) => ({ value: name, label: t(`range.${name}`) }))}
        // No choice is marked while the range is a custom one.
        value={custom ? '' : range.name}
        onChange={(value) => {
          const name = NAMED.find((known) => known === value);
          if (name !== undefined) choose({ kind: 'named', name });
        }}
      />
      <Popover
        open={open}
        onOpenChange={setOpen}
        trigger="click"
        placement="bottomRight"
        destroyOnHidden
        content={
          <Suspense fallback={<Loading rows={2} />}>
            <CustomRange range={range} onChoose={choose} />
          </Suspense>
        }
      >
        <Button type={custom ? 'default' : 'text'} data-testid="range-custom">
          <span className="num">
            {custom ? `${fmt.minute(range.fromMs)} – ${fmt.minute(range.toMs)}` : t('range.custom')}
          </span>
        </Button>
      </Popover>
    </div>
  );
}
