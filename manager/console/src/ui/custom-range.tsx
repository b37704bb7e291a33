/** Both ends of a custom range, in the reader's zone. Loaded when it is opened. */
import { Button } from 'antd';
import { useState } from 'react';

import { useI18n } from '../i18n/context';
import { customRange, widthMs, type Range } from '../lib/range';

interface Props {
  readonly range: Range;
  readonly onChoose: (range: Range) => void;
}

/** An instant as the value of a `datetime-local` field. */
function fieldValue(ms: number): string {
  const local = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 16);
}

export default function CustomRange({ range, onChoose }: Props) {
  const { t } = useI18n();
  const [start] = useState(() => Date.now());
  const [from, setFrom] = useState(fieldValue(range.kind === 'custom' ? range.fromMs : start - widthMs(range)));
  const [to, setTo] = useState(fieldValue(range.kind === 'custom' ? range.toMs : start));
  const chosen = customRange(Date.parse(from), Date.parse(to));
  const field = (label: string, value: string, set: (value: string) => void) => (
    <label>
      {label}
      <input
        type="datetime-local"
        value={value}
        onChange={(event) => {
          set(event.target.value);
        }}
      />
    </label>
  );
  return (
    <form
      className="custom-range"
      onSubmit={(event) => {
        event.preventDefault();
        if (chosen !== null) onChoose(chosen);
      }}
    >
      {field(t('range.custom.from'), from, setFrom)}
      {field(t('range.custom.to'), to, setTo)}
      <p className={chosen === null ? 'tone-bad' : 'dim'}>
        {chosen === null
          ? t('range.custom.order')
          : t('range.custom.zone', { zone: Intl.DateTimeFormat().resolvedOptions().timeZone })}
      </p>
      <Button type="primary" size="small" htmlType="submit" disabled={chosen === null}>
        {t('range.custom.apply')}
      </Button>
    </form>
  );
}
