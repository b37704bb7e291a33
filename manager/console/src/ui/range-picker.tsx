/** The range of a page: four that end now, or any other. */
import { Popover, Segmented } from 'antd';
import { lazy, Suspense, useState } from 'react';

import { useI18n } from '../i18n/context';
import { NAMED, type Range } from '../lib/range';
import { Loading } from './notice';

// The calendar is large and seldom used.
const CustomRange = lazy(() => import('./custom-range'));

/** Shows and sets the range in the URL. */
export function RangePicker({ range, setRange }: { range: Range; setRange: (range: Range) => void }) {
  const { t, fmt } = useI18n();
  const [open, setOpen] = useState(false);
  const custom =
    range.kind === 'custom' ? `${fmt.minute(range.fromMs)} – ${fmt.minute(range.toMs)}` : t('range.custom');
  const options = [
    ...NAMED.map((name) => ({ value: name, label: t(`range.${name}`) })),
    { value: 'custom', label: <span className="num">{custom}</span> },
  ];
  const close = (chosen: Range) => {
    setOpen(false);
    setRange(chosen);
  };
  return (
    <Popover
      open={open}
      onOpenChange={(wanted) => {
        if (!wanted) setOpen(false);
      }}
      trigger="click"
      placement="bottomRight"
      content={
        open ? (
          <Suspense fallback={<Loading rows={2} />}>
            <CustomRange range={range} onChoose={close} />
          </Suspense>
        ) : null
      }
    >
      <span
        onClickCapture={(event) => {
          // The popover opens for "custom" only; the other choices are one click.
          const label = (event.target as HTMLElement).closest('.ant-segmented-item');
          if (label !== null && label === label.parentElement?.lastElementChild) setOpen(true);
        }}
      >
        <Segmented
          aria-label={t('range.label')}
          options={options}
          value={range.kind === 'named' ? range.name : 'custom'}
          onChange={(value) => {
            const name = NAMED.find((known) => known === value);
            if (name !== undefined) close({ kind: 'named', name });
          }}
        />
      </span>
    </Popover>
  );
}
