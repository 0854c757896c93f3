import type { Completion, CompletionContext, CompletionResult, CompletionSource } from '@codemirror/autocomplete';
import { syntaxTree } from '@codemirror/language';
import type { EditorState } from '@codemirror/state';
import type { EditorView, Tooltip } from '@codemirror/view';
import type { SyntaxNode } from '@lezer/common';

import { choicesAt, fieldAt, fieldsAt, type Field, type Schema } from './schema';

type KnownSchema = () => Schema | null;

/** Names of fields, and values that can be listed. */
export function completions(schema: KnownSchema): CompletionSource {
  return (context: CompletionContext): CompletionResult | null => {
    const known = schema();
    const node = syntaxTree(context.state).resolveInner(context.pos, -1);
    if (!known) return null;
    if (node.name === 'PropertyName') return names(known, context.state, node.parent!.parent!, node);
    if (isValue(node) && node.parent?.name === 'Property') {
      return choices(known, context.state, node.parent, { from: node.from, to: node.to });
    }
    const word = context.matchBefore(/[\w$"-]*/)!;
    if (!context.explicit && word.from === word.to) return null;
    const place = { from: word.from, to: context.pos };
    const holder = holderOf(node);
    if (holder?.name === 'Property') return choices(known, context.state, holder, place);
    return holder?.name === 'Object' ? names(known, context.state, holder, place) : null;
  };
}

/** What is said of the field under the pointer. */
export function hint(schema: KnownSchema) {
  return ({ state }: EditorView, position: number): Tooltip | null => {
    const known = schema();
    const node = syntaxTree(state).resolveInner(position, 1);
    const property = node.name === 'PropertyName' ? node.parent : null;
    if (!known || !property) return null;
    const field = fieldAt(known, pathOf(state, property), valueOf(state, syntaxTree(state).topNode.firstChild));
    if (!field) return null;
    return { pos: node.from, end: node.to, above: true, create: () => ({ dom: described(field) }) };
  };
}

function names(
  schema: Schema,
  state: EditorState,
  object: SyntaxNode,
  { from, to }: { from: number; to: number },
): CompletionResult {
  const path = pathOf(state, object);
  const own = valueOf(state, object) as Record<string, unknown>;
  const written = textOf(state, from, to);
  const fields = fieldsAt(schema, path, valueOf(state, syntaxTree(state).topNode.firstChild));
  const known = new Set(fields.map(({ name }) => name));
  const follows = /^\s*:/.test(textOf(state, to, Math.min(to + 50, state.doc.length)));
  const options = fields
    // Those with two ways to write them are offered as the service writes them.
    .filter(({ name }) => (!(name in own) || name === written) && !isOtherSpelling(name, known))
    .map((field): Completion => ({
      label: `"${field.name}"`,
      displayLabel: field.name,
      type: 'property',
      detail: field.type,
      info: () => described(field),
      apply: `"${field.name}"${follows ? '' : ': '}`,
      boost: field.required ? 1 : 0,
    }));
  return { from, to, options, validFor: /^"?[\w$-]*"?$/ };
}

function choices(
  schema: Schema,
  state: EditorState,
  property: SyntaxNode,
  { from, to }: { from: number; to: number },
): CompletionResult | null {
  const found = choicesAt(schema, pathOf(state, property), valueOf(state, syntaxTree(state).topNode.firstChild));
  if (!found.length) return null;
  return { from, to, options: found.map(({ value }) => ({ label: JSON.stringify(value), type: 'enum' })) };
}

function isOtherSpelling(name: string, known: Set<string>): boolean {
  const snake = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return snake !== name && known.has(snake);
}

function described({ name, type, description, byItself }: Field): HTMLElement {
  const dom = document.createElement('div');
  dom.className = 'cm-hint';
  const head = document.createElement('div');
  head.className = 'cm-hint-type';
  const ends = byItself === undefined || byItself === null ? '' : `, ${JSON.stringify(byItself)} by itself`;
  head.textContent = `${name}: ${type || 'anything'}${ends}`;
  const text = document.createElement('div');
  text.textContent = description;
  dom.append(head, text);
  return dom;
}

/** The property whose value, or else the object whose field, would stand here. */
function holderOf(node: SyntaxNode): SyntaxNode | null {
  for (let here: SyntaxNode | null = node; here; here = here.parent) {
    if (here.name === 'Object' || here.name === 'Property') return here;
  }
  return null;
}

function isValue({ name }: SyntaxNode): boolean {
  return ['String', 'True', 'False', 'Null', 'Number'].includes(name);
}

/** The names and numbers that lead from the top of the document to a node. */
export function pathOf(state: EditorState, node: SyntaxNode): (string | number)[] {
  const path: (string | number)[] = [];
  for (let here: SyntaxNode | null = node; here; here = here.parent) {
    const name = here.name === 'Property' ? here.getChild('PropertyName') : null;
    if (name) path.unshift(wordOf(state, name));
    else if (here.parent?.name === 'Array') path.unshift(placeIn(here));
  }
  return path;
}

function placeIn(node: SyntaxNode): number {
  let place = 0;
  for (let before = node.prevSibling; before; before = before.prevSibling) place += 1;
  return place - 1; // the bracket comes first
}

/** What a node says, as far as it is right. */
function valueOf(state: EditorState, node: SyntaxNode | null): unknown {
  if (node?.name === 'Object') {
    return Object.fromEntries(
      node.getChildren('Property').map((property) => {
        const name = property.getChild('PropertyName');
        const value = property.lastChild;
        return [name ? wordOf(state, name) : '', value === name ? undefined : valueOf(state, value)];
      }),
    );
  }
  return node && isValue(node) ? wordOf(state, node) : undefined;
}

function wordOf(state: EditorState, { from, to }: SyntaxNode): string {
  const text = textOf(state, from, to);
  try {
    return String(JSON.parse(text));
  } catch {
    return text.replace(/^"|"$/g, '');
  }
}

function textOf(state: EditorState, from: number, to: number): string {
  return state.doc.sliceString(from, to);
}
