/** The four states of everything that loads: skeleton, empty, error, forbidden. */
import { DisconnectOutlined, InboxOutlined, LockOutlined, SearchOutlined, WarningOutlined } from '@ant-design/icons';
import { Button, Skeleton } from 'antd';
import { useEffect, useState, type ReactNode } from 'react';

import { ApiError, TIMEOUT_MS } from '../api/client';
import { useI18n } from '../i18n/context';

/** Grey lines where content will be; words come after 300 ms, so that a fast answer does not flash. */
export function Loading({ rows, height }: { rows: number; height?: number }) {
  const { t } = useI18n();
  const [slow, setSlow] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => {
      setSlow(true);
    }, 300);
    return () => {
      clearTimeout(timer);
    };
  }, []);
  return (
    <div className="loading" style={height === undefined ? {} : { height }} role="status" aria-busy="true">
      <Skeleton active title={false} paragraph={{ rows, width: '100%' }} />
      <span className="loading-word">{slow ? t('show.loading') : ''}</span>
    </div>
  );
}

interface NoticeProps {
  readonly icon: ReactNode;
  readonly title: string;
  readonly next?: ReactNode;
  readonly action?: ReactNode;
  readonly height?: number | undefined;
  readonly testId?: string;
}

/** What is so and what to do next. */
export function Notice({ icon, title, next, action, height, testId }: NoticeProps) {
  return (
    <div className="notice" style={height === undefined ? {} : { height }} data-testid={testId}>
      <span className="notice-icon">{icon}</span>
      <strong>{title}</strong>
      {next === undefined ? null : <p>{next}</p>}
      {action}
    </div>
  );
}

interface EmptyProps {
  readonly title: string;
  readonly next?: string;
  readonly search?: boolean;
  readonly action?: ReactNode;
  readonly height?: number;
}

/** Nothing is there: why, and the next step. */
export function Empty({ title, next, search = false, action, height }: EmptyProps) {
  return (
    <Notice
      icon={search ? <SearchOutlined /> : <InboxOutlined />}
      title={title}
      next={next}
      action={action}
      height={height}
      testId="empty"
    />
  );
}

/** It could not be loaded: what failed and "try again"; or it may not be seen: whom to ask. */
export function Failed({ error, retry, height }: { error: Error; retry: () => void; height?: number }) {
  const { t } = useI18n();
  const failure = error instanceof ApiError ? error.failure : ({ kind: 'shape' } as const);
  const again = (
    <Button size="small" onClick={retry}>
      {t('show.retry')}
    </Button>
  );
  switch (failure.kind) {
    case 'forbidden': {
      const next = t('show.forbidden.next', { message: failure.message });
      return <Notice icon={<LockOutlined />} title={t('show.forbidden')} next={next} height={height} testId="forbidden" />;
    }
    case 'missing':
    case 'status': {
      const status = failure.kind === 'status' ? failure.status : 404;
      const next = t('show.error.status', { status: String(status), message: failure.message });
      return <Notice icon={<WarningOutlined />} title={t('show.error')} next={next} action={again} height={height} testId="error" />;
    }
    case 'unreachable':
    case 'timeout':
    case 'shape': {
      const next = t(`show.error.${failure.kind}`, { seconds: TIMEOUT_MS / 1000 });
      return <Notice icon={<DisconnectOutlined />} title={t('show.error')} next={next} action={again} height={height} testId="error" />;
    }
  }
}
