/** Routes. Every page is a chunk of its own; a page that fails leaves the shell standing. */
import { CompassOutlined, WarningOutlined } from '@ant-design/icons';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { Button } from 'antd';
import { lazy } from 'react';
import { createBrowserRouter, isRouteErrorResponse, Navigate, RouterProvider, useRouteError } from 'react-router';

import { ApiError } from './api/client';
import { useI18n } from './i18n/context';
import { PreferencesProvider } from './shell/preferences';
import { Shell } from './shell/shell';
import { Notice } from './ui/notice';

const Topics = lazy(() => import('./pages/topics/page'));
const Topic = lazy(() => import('./pages/topic/page'));
const Nodes = lazy(() => import('./pages/nodes/page'));

const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      // A local manager needs no internet.
      networkMode: 'always',
      staleTime: 2_000,
      // What the manager refused it refuses again; a lost connection is tried twice more.
      retry: (failures, error) =>
        failures < 2 && error instanceof ApiError && ['unreachable', 'timeout'].includes(error.failure.kind),
    },
  },
});

function Crashed() {
  const { t } = useI18n();
  const error = useRouteError();
  const message = isRouteErrorResponse(error) ? error.statusText : error instanceof Error ? error.message : String(error);
  return (
    <div className="page">
      <Notice
        icon={<WarningOutlined />}
        title={t('show.crash')}
        next={t('show.crash.next', { message })}
        testId="crash"
        action={
          <Button
            size="small"
            onClick={() => {
              location.reload();
            }}
          >
            {t('show.reload')}
          </Button>
        }
      />
    </div>
  );
}

function NotFound() {
  const { t } = useI18n();
  return (
    <div className="page">
      <Notice icon={<CompassOutlined />} title={t('show.notFound')} next={t('show.notFound.next')} testId="not-found" />
    </div>
  );
}

const router = createBrowserRouter([
  {
    path: '/',
    element: <Shell />,
    children: [
      {
        errorElement: <Crashed />,
        children: [
          { index: true, element: <Navigate to="/topics" replace /> },
          { path: 'topics', element: <Topics /> },
          { path: 'topics/:topic', element: <Topic /> },
          { path: 'nodes', element: <Nodes /> },
          { path: '*', element: <NotFound /> },
        ],
      },
    ],
  },
]);

export function App() {
  return (
    <PreferencesProvider>
      <QueryClientProvider client={queryClient}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </PreferencesProvider>
  );
}
