import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

/** Where `npm run dev` finds a running manager. */
const manager = process.env.MANAGER_URL ?? 'http://127.0.0.1:7500';

export default defineConfig({
  plugins: [react()],
  server: {
    host: '127.0.0.1',
    port: 7510,
    proxy: { '/api': { target: manager } },
  },
  preview: {
    host: '127.0.0.1',
    port: 7510,
    proxy: { '/api': { target: manager } },
  },
  build: {
    target: 'es2022',
    // Every file by itself, so that the manager's content security policy needs no data: scripts.
    assetsInlineLimit: 0,
    // ECharts is one lazy chunk of about 600 kB; scripts/budget.mjs watches what matters, gzipped.
    chunkSizeWarningLimit: 1200,
    manifest: true,
  },
  test: {
    include: ['src/**/*.test.{ts,tsx}'],
    environment: 'node',
    env: { TZ: 'UTC' },
  },
});
