import { fieldsOf } from './parameters/parameters';
import type { Message, Setup } from './types';

type Part = { type: 'text'; text: string } | { type: 'image_url'; image_url: { url: string } };

interface Said {
  role: 'system' | 'user' | 'assistant';
  content: string | Part[];
}

/**
 * The body of POST /v1/chat/completions for the turns of a branch. Images are left out where the model can't take them,
 * and so are answers of which nothing came. If the last turn is an answer, the model goes on with it.
 */
export function requestOf(turns: readonly Message[], setup: Setup, takesImages: boolean): Record<string, unknown> {
  const last = turns.at(-1);
  const messages: Said[] = turns
    .filter((turn) => turn.role === 'user' || turn.text)
    .map((turn) => ({ role: turn.role, content: contentOf(turn, takesImages) }));
  if (setup.system.trim()) messages.unshift({ role: 'system', content: setup.system });
  return {
    ...fieldsOf(setup.parameters),
    ...(setup.model === null ? {} : { model: setup.model }),
    ...(setup.personality === null ? {} : { personality: setup.personality }),
    // A model that thinks would begin to think anew; llama.cpp refuses that for an answer that has begun.
    ...(last?.role === 'assistant' && last.reasoning ? { chat_template_kwargs: { enable_thinking: false } } : {}),
    messages,
    stream: true,
    stream_options: { include_usage: true },
  };
}

function contentOf(turn: Message, takesImages: boolean): string | Part[] {
  if (!takesImages || !turn.images.length) return turn.text;
  const images = turn.images.map(({ url }): Part => ({ type: 'image_url', image_url: { url } }));
  return turn.text ? [...images, { type: 'text', text: turn.text }] : images;
}
