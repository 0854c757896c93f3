/** How other programs reach the service. `base` has no slash at its end. */

export interface Snippet {
  name: string;
  text: string;
}

export const PLACEHOLDER = 'sk-lh-…';

/** `key` null: none is asked for. `model`: one to ask. */
export function snippets(base: string, key: string | null, model: string): Snippet[] {
  const body = JSON.stringify({ model, messages: [{ role: 'user', content: 'Hello' }] });
  const authorization = key === null ? '' : ` \\\n  -H "Authorization: Bearer ${key}"`;
  return [
    {
      name: 'curl',
      text:
        `curl ${shell(`${base}/v1/chat/completions`)}${authorization} \\\n` +
        `  -H "Content-Type: application/json" \\\n  -d ${shell(body)}`,
    },
    {
      name: 'openai-python',
      text:
        'from openai import OpenAI\n\n' +
        // The library does not start without a key, even where none is asked for.
        `client = OpenAI(base_url=${python(`${base}/v1`)}, api_key=${python(key ?? 'none')})\n` +
        'answer = client.chat.completions.create(\n' +
        `    model=${python(model)},\n    messages=[{"role": "user", "content": "Hello"}],\n)\n` +
        'print(answer.choices[0].message.content)',
    },
  ];
}

/** A word of a POSIX shell. */
function shell(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replace(/'/g, `'\\''`)}'`;
}

/** A literal of Python: those of JSON's strings are. */
function python(text: string): string {
  return JSON.stringify(text);
}
