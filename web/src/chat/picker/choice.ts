import type { ServedModel } from '../../api/types';
import { keep, keptJson } from '../../state/kept';
import { count } from '../../ui/format';

const KEPT = 'llamaherd.model';

/** What conversations are with. */
export interface Choice {
  model: string;
  personality: string | null;
}

/** What was chosen last in this browser. */
export function keptChoice(): Choice | null {
  const { model, personality } = (keptJson(KEPT) ?? {}) as Record<string, unknown>;
  if (typeof model !== 'string') return null;
  return { model, personality: typeof personality === 'string' ? personality : null };
}

export function keepChoice(choice: Choice): void {
  keep(KEPT, JSON.stringify(choice));
}

/** The models in which every word of the query is found: in a name, or in the description. */
export function matching(models: readonly ServedModel[], query: string): ServedModel[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return models.filter(({ id, aliases, description }) => {
    const text = [id, ...aliases, description ?? ''].join('\n').toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** What there is to know of a model before it is chosen, in a line. */
export function factsOf({ context_length, input_modalities, aliases, personalities, parent }: ServedModel): string[] {
  return [
    ...(context_length === null ? [] : [`${count(context_length)} tokens`]),
    ...(input_modalities.includes('image') ? ['sees images'] : []),
    ...(parent ? [`profile of ${parent}`] : []),
    ...(personalities.length
      ? [personalities.length === 1 ? '1 personality' : `${personalities.length} personalities`]
      : []),
    ...(aliases.length ? [`also ${aliases.join(', ')}`] : []),
  ];
}

/** The choice to begin with: the last one where it can still be made, else the service's default. */
export function firstChoice(
  models: readonly ServedModel[],
  fallback: string | null,
  kept: Choice | null,
): Choice | null {
  const last = models.find(({ id, unavailable }) => id === kept?.model && !unavailable);
  if (last && kept) {
    return {
      model: last.id,
      personality: last.personalities.includes(kept.personality ?? '') ? kept.personality : null,
    };
  }
  return fallback === null ? null : { model: fallback, personality: null };
}
