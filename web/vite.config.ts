import { svelte } from '@sveltejs/vite-plugin-svelte';
import { svelteTesting } from '@testing-library/svelte/vite';
import { defineConfig } from 'vitest/config';

/** Where `npm run dev` finds a running service; its routes are those that do not belong to the page. */
const service = process.env.LLAMAHERD_URL ?? 'http://127.0.0.1:8000';
const routes = [
  '/v1',
  '/admin',
  '/health',
  '/ping',
  '/status',
  '/props',
  '/docs',
  '/redoc',
  '/openapi.json',
  '/metrics',
];

export default defineConfig({
  plugins: [svelte(), svelteTesting()],
  // Relative, so that the built files work under any path of any host.
  base: './',
  build: {
    outDir: '../routes/web_app/built',
    emptyOutDir: true,
    target: 'es2022',
    // A data: URL in a style sheet would need an exception in the policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: 'licenses.md' },
  },
  server: {
    proxy: Object.fromEntries(routes.map((route) => [route, { target: service, changeOrigin: true, secure: false }])),
  },
  test: {
    environment: 'jsdom',
    include: ['src/**/*.test.ts'],
    setupFiles: ['src/test-setup.ts'],
    testTimeout: 10_000,
  },
});
