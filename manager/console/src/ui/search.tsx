/** The search box of a list: `/` focuses it, Escape leaves it, Enter goes to the first row. */
import { SearchOutlined } from '@ant-design/icons';
import { Input, type InputRef } from 'antd';
import { useEffect, useEffectEvent, useRef, useState } from 'react';

import { useShortcuts } from '../lib/keys';

/** How long the reader must pause before the list follows, in ms. */
const PAUSE_MS = 120;

interface Props {
  readonly value: string;
  readonly placeholder: string;
  readonly onChange: (value: string) => void;
  readonly onEnter: () => void;
}

export function Search({ value, placeholder, onChange, onEnter }: Props) {
  const input = useRef<InputRef>(null);
  // What is typed stands here at once; the address follows. Null: the address rules.
  const [draft, setDraft] = useState<string | null>(null);
  const [focused, setFocused] = useState(false);
  const send = useEffectEvent(onChange);
  if (draft !== null && !focused && draft === value) setDraft(null);
  useEffect(() => {
    if (draft === null) return;
    const timer = setTimeout(() => {
      send(draft);
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
    };
  }, [draft]);
  useShortcuts({
    '/': (event) => {
      event.preventDefault();
      input.current?.focus({ cursor: 'all' });
    },
    Escape: () => {
      input.current?.blur();
    },
  });
  return (
    <Input
      ref={input}
      className="search"
      data-testid="search"
      prefix={<SearchOutlined />}
      suffix={<kbd>/</kbd>}
      allowClear
      value={draft ?? value}
      onFocus={() => {
        setFocused(true);
      }}
      onBlur={() => {
        setFocused(false);
      }}
      placeholder={placeholder}
      aria-label={placeholder}
      onChange={(event) => {
        setDraft(event.target.value);
      }}
      onPressEnter={(event) => {
        event.preventDefault();
        input.current?.blur();
        onEnter();
      }}
    />
  );
}
