import type { AdminModel, AdminModelDetails, Pull } from '../api/types';

// What tests say nothing of.

export function model(said: Partial<AdminModel> = {}): AdminModel {
  return {
    name: 'model',
    state: 'stopped',
    since: 0,
    personality: null,
    in_flight: 0,
    waiting: 0,
    yielding: false,
    progress: null,
    idle_since: null,
    device: null,
    memory: { expected: {}, measured: {} },
    load_seconds: null,
    loads: 0,
    evictions: 0,
    failures: 0,
    last_error: null,
    evicted: null,
    pid: null,
    aliases: [],
    personalities: [],
    profiles: {},
    request: null,
    description: null,
    engine: 'llama',
    unavailable: null,
    default: false,
    active: false,
    pinned: false,
    preload: false,
    ttl: null,
    unloads_at: null,
    ...said,
  };
}

export function details(said: Partial<AdminModelDetails> = {}): AdminModelDetails {
  return { ...model(), ...said };
}

export function pull(said: Partial<Pull> = {}): Pull {
  return {
    id: 'a',
    source: 'org/repo',
    quant: null,
    revision: null,
    name: null,
    mmproj: true,
    state: 'fetching',
    created: 0,
    ended: null,
    bytes: 0,
    total: null,
    speed: null,
    files: [],
    model: null,
    note: null,
    error: null,
    ...said,
  };
}
