/** The search box of a list: `/` focuses it, Escape leaves it, Enter goes to the first row. */
import { SearchOutlined } from '@ant-design/icons';
import { Input, type InputRef } from 'antd';
import { useRef } from 'react';

import { useShortcuts } from '../lib/keys';

interface Props {
  readonly value: string;
  readonly placeholder: string;
  readonly onChange: (value: string) => void;
  readonly onEnter: () => void;
}

export function Search({ value, placeholder, onChange, onEnter }: Props) {
  const input = useRef<InputRef>(null);
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
      value={value}
      placeholder={placeholder}
      aria-label={placeholder}
      onChange={(event) => {
        onChange(event.target.value);
      }}
      onPressEnter={(event) => {
        event.preventDefault();
        input.current?.blur();
        onEnter();
      }}
    />
  );
}
