import type { ServedModel } from '../api/types';

/** For tests: a model as `/v1/models` lists it. */
export function servedModel(id: string, more: Partial<ServedModel> = {}): ServedModel {
  return {
    id,
    object: 'model',
    created: 0,
    owned_by: 'local',
    root: id,
    backend: 'gguf',
    state: 'stopped',
    aliases: [],
    personalities: [],
    profiles: [],
    context_length: null,
    input_modalities: ['text'],
    tasks: ['chat'],
    ...more,
  };
}
