import Activity from '@lucide/svelte/icons/activity';
import Boxes from '@lucide/svelte/icons/boxes';
import KeyRound from '@lucide/svelte/icons/key-round';
import MessageSquare from '@lucide/svelte/icons/message-square';
import ScrollText from '@lucide/svelte/icons/scroll-text';
import Settings from '@lucide/svelte/icons/settings';
import type { Component } from 'svelte';

import type { Scope } from './api/types';
import { capturing } from './state/capturing.svelte';

export interface Page {
  name: string;
  title: string;
  icon: typeof Activity;
  /** What a key must be for; null: any. */
  scope: Scope | null;
  load: () => Promise<{ default: Component }>;
  /** What is to be known of it on every other page, too; null: nothing. */
  notice?: () => string | null;
}

/** Each is fetched when it is first shown. */
export const pages: Page[] = [
  {
    name: 'chat',
    title: 'Chat',
    icon: MessageSquare,
    scope: 'inference',
    load: () => import('./chat/ChatPage.svelte'),
  },
  {
    name: 'models',
    title: 'Models',
    icon: Boxes,
    scope: 'admin',
    load: () => import('./models/ModelsPage.svelte'),
  },
  {
    name: 'activity',
    title: 'Activity',
    icon: Activity,
    scope: 'admin',
    load: () => import('./activity/ActivityPage.svelte'),
    notice: () => (capturing.on ? 'requests are captured' : null),
  },
  { name: 'logs', title: 'Logs', icon: ScrollText, scope: 'admin', load: () => import('./logs/LogsPage.svelte') },
  { name: 'keys', title: 'Keys', icon: KeyRound, scope: 'admin', load: () => import('./keys/KeysPage.svelte') },
  {
    name: 'settings',
    title: 'Settings',
    icon: Settings,
    scope: null,
    load: () => import('./settings/SettingsPage.svelte'),
  },
];
