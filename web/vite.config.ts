import { svelte } from '@sveltejs/vite-plugin-svelte';
import { svelteTesting } from '@testing-library/svelte/vite';
import type { ProxyOptions } from 'vite';
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

/**
 * The browser names this server as the origin, and a service without keys takes orders from its own page alone. Whether
 * it was that page which asked here, `Sec-Fetch-Site` still tells.
 */
const configure: ProxyOptions['configure'] = (proxy) => {
  proxy.on('proxyReq', (request) => request.removeHeader('origin'));
};

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
    proxy: Object.fromEntries(
      routes.map((route) => [route, { target: service, changeOrigin: true, secure: false, configure }]),
    ),
  },
  test: {
    environment: 'jsdom',
    include: ['src/**/*.test.ts'],
    setupFiles: ['src/test-setup.ts'],
    testTimeout: 10_000,
  },
});
