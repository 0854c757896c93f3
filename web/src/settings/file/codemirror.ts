import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap } from '@codemirror/commands';
import { json } from '@codemirror/lang-json';
import {
  bracketMatching,
  foldGutter,
  foldKeymap,
  HighlightStyle,
  indentOnInput,
  syntaxHighlighting,
} from '@codemirror/language';
import { lintGutter, lintKeymap, setDiagnostics, type Diagnostic } from '@codemirror/lint';
import { highlightSelectionMatches, openSearchPanel, search, searchKeymap } from '@codemirror/search';
import { EditorState, type Extension, type Text } from '@codemirror/state';
import {
  drawSelection,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  highlightSpecialChars,
  hoverTooltip,
  keymap,
  lineNumbers,
} from '@codemirror/view';
import { tags } from '@lezer/highlight';

import type { Mistake } from '../../api/types';
import { completions, hint } from './help';
import type { Schema } from './schema';

export interface EditorOptions {
  /** Where it is drawn: CodeMirror's styles then are sheets of the shadow root, not elements, which the policy forbids. */
  root: ShadowRoot;
  text: string;
  label: string;
  writable: boolean;
  schema: () => Schema | null;
  onchange: (text: string) => void;
  onsave: () => void;
}

/** An editor of JSON. */
export class JsonEditor {
  readonly #view: EditorView;

  constructor(options: EditorOptions) {
    this.#view = new EditorView({
      root: options.root,
      parent: options.root,
      state: EditorState.create({ doc: options.text, extensions: extensionsOf(options) }),
    });
  }

  /** Replace all, where it is something else. */
  set text(text: string) {
    const { doc } = this.#view.state;
    if (text !== doc.toString()) this.#view.dispatch({ changes: { from: 0, to: doc.length, insert: text } });
  }

  set mistakes(mistakes: readonly Mistake[]) {
    const { state } = this.#view;
    this.#view.dispatch(
      setDiagnostics(
        state,
        mistakes.map((mistake) => diagnosticOf(state.doc, mistake)),
      ),
    );
  }

  goTo(line: number, column: number): void {
    const at = placeOf(this.#view.state.doc, line, column);
    this.#view.dispatch({ selection: { anchor: at }, effects: EditorView.scrollIntoView(at, { y: 'center' }) });
    this.#view.focus();
  }

  find(): void {
    openSearchPanel(this.#view);
  }

  destroy(): void {
    this.#view.destroy();
  }
}

function extensionsOf({ label, writable, schema, onchange, onsave }: EditorOptions): Extension {
  const save = (): boolean => {
    onsave();
    return true;
  };
  return [
    lineNumbers(),
    foldGutter(),
    lintGutter(),
    highlightSpecialChars(),
    history(),
    drawSelection(),
    indentOnInput(),
    bracketMatching(),
    closeBrackets(),
    highlightActiveLine(),
    highlightActiveLineGutter(),
    highlightSelectionMatches(),
    search({ top: true }),
    json(),
    syntaxHighlighting(colours),
    look,
    autocompletion({ override: [completions(schema)] }),
    hoverTooltip(hint(schema)),
    EditorState.readOnly.of(!writable),
    EditorView.contentAttributes.of({ 'aria-label': label, tabindex: '0' }),
    EditorView.updateListener.of(({ docChanged, state }) => docChanged && onchange(state.doc.toString())),
    // Tab leaves the editor, as it leaves any field.
    keymap.of([
      { key: 'Mod-s', run: save, preventDefault: true },
      ...closeBracketsKeymap,
      ...defaultKeymap,
      ...searchKeymap,
      ...historyKeymap,
      ...foldKeymap,
      ...completionKeymap,
      ...lintKeymap,
    ]),
  ];
}

/** Marked from its place to the end of the word, or of the line. */
function diagnosticOf(doc: Text, { message, line, column, path }: Mistake): Diagnostic {
  const from = line === null ? 0 : placeOf(doc, line, column ?? 1);
  const rest = doc.sliceString(from, doc.lineAt(from).to);
  const word = /^(?:"(?:[^"\\]|\\.)*"|[\w.+-]+)/.exec(rest)?.[0] ?? rest;
  return { from, to: from + word.length, severity: 'error', message: path ? `${path}: ${message}` : message };
}

function placeOf(doc: Text, line: number, column: number): number {
  const { from, to } = doc.line(Math.min(Math.max(line, 1), doc.lines));
  return Math.min(from + Math.max(column, 1) - 1, to);
}

const colours = HighlightStyle.define([
  { tag: tags.propertyName, color: 'var(--accent)' },
  { tag: tags.string, color: 'var(--ok)' },
  { tag: tags.number, color: 'var(--info)' },
  { tag: [tags.bool, tags.null], color: 'var(--series-4)' },
  { tag: tags.invalid, color: 'var(--bad)' },
]);

const look = EditorView.theme({
  '&': { height: '100%', backgroundColor: 'var(--surface)', color: 'var(--text)' },
  '&.cm-focused': { outline: 'none' },
  '.cm-scroller': { fontFamily: 'var(--mono)', fontSize: '13px', lineHeight: '20px' },
  '.cm-content': { caretColor: 'var(--text)' },
  '.cm-cursor': { borderLeftColor: 'var(--text)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': {
    backgroundColor: 'color-mix(in srgb, var(--info) 30%, transparent)',
  },
  '.cm-gutters': { backgroundColor: 'var(--sunken)', color: 'var(--muted)', borderRight: '1px solid var(--line)' },
  '.cm-activeLine': { backgroundColor: 'color-mix(in srgb, var(--hover) 45%, transparent)' },
  '.cm-activeLineGutter': { backgroundColor: 'var(--hover)', color: 'var(--text)' },
  '.cm-matchingBracket, &.cm-focused .cm-matchingBracket': {
    backgroundColor: 'var(--accent-soft)',
    outline: '1px solid var(--accent)',
  },
  '.cm-selectionMatch': { backgroundColor: 'var(--accent-soft)' },
  '.cm-searchMatch': { backgroundColor: 'var(--busy-soft)', outline: '1px solid var(--busy)' },
  '.cm-searchMatch-selected': { backgroundColor: 'var(--accent-soft)', outline: '2px solid var(--accent)' },
  '.cm-panels': { backgroundColor: 'var(--sunken)', color: 'var(--text)', borderColor: 'var(--line)' },
  '.cm-panels-top': { borderBottom: '1px solid var(--line)' },
  '.cm-panel.cm-search': { padding: '6px 28px 6px 8px', font: '14px var(--font)' },
  '.cm-textfield': {
    backgroundColor: 'var(--surface)',
    color: 'var(--text)',
    border: '1px solid var(--line-strong)',
    borderRadius: '4px',
    padding: '4px 6px',
  },
  '.cm-button': {
    backgroundImage: 'none',
    backgroundColor: 'var(--surface)',
    color: 'var(--text)',
    border: '1px solid var(--line)',
    borderRadius: '4px',
  },
  '.cm-panel.cm-search [name=close]': { color: 'var(--text)', padding: '4px 8px' },
  '.cm-tooltip': {
    maxWidth: 'min(420px, 90vw)',
    backgroundColor: 'var(--surface)',
    color: 'var(--text)',
    border: '1px solid var(--line-strong)',
    borderRadius: '6px',
    boxShadow: 'var(--shadow)',
    fontFamily: 'var(--font)',
    fontSize: '13px',
  },
  '.cm-tooltip.cm-tooltip-autocomplete > ul': { fontFamily: 'var(--mono)', maxHeight: '15em' },
  '.cm-tooltip-autocomplete ul li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--on-accent)' },
  '.cm-completionDetail': { opacity: '0.8' },
  '.cm-completionInfo': { padding: '6px 9px', backgroundColor: 'var(--surface)' },
  '.cm-hint': { padding: '6px 9px' },
  '.cm-hint-type': { color: 'var(--muted)', fontFamily: 'var(--mono)' },
  '.cm-foldPlaceholder': { backgroundColor: 'var(--hover)', borderColor: 'var(--line)', color: 'var(--muted)' },
});
