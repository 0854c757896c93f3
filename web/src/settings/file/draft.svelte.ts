import { ApiError, isAbort, messageOf, Unreachable, type Client } from '../../api/client';
import type { Mistake, ModelsFile } from '../../api/types';
import { changeWords, entryChanges } from './entries';

const PATH = '/admin/models-file';
const TYPED = 350; // milliseconds after which what was typed is checked

/** models.json as it is being edited. */
export class Draft {
  /** As the service has it; null: not known yet. */
  file = $state.raw<ModelsFile | null>(null);
  text = $state('');
  /** Of the text as it is now, once `checked`. */
  mistakes = $state.raw<Mistake[]>([]);
  checked = $state(false);
  saving = $state(false);
  /** Why the file could not be read, the text not be checked, or not be saved, the last time. */
  unread = $state<string | null>(null);
  unchecked = $state<string | null>(null);
  unsaved = $state<string | null>(null);
  /** What the last saving did. */
  done = $state<string | null>(null);
  /** Somebody else has changed the file meanwhile. */
  theirs = $state.raw<ModelsFile | null>(null);

  #timer: ReturnType<typeof setTimeout> | undefined;
  #checking: AbortController | null = null;
  #asked = 0;

  /** `client` is that of the moment: a draft outlives the key with which it was begun. */
  constructor(private readonly client: () => Client) {}

  get dirty(): boolean {
    return this.file !== null && this.text !== this.file.text;
  }

  /** Read the file. What is being edited stays: it is told (`theirs`) where the file has become another one. */
  async load(): Promise<void> {
    const asked = ++this.#asked;
    try {
      const file = await this.client().get<ModelsFile>(PATH);
      if (asked === this.#asked && !this.saving) this.#know(file);
    } catch (error) {
      if (asked === this.#asked) this.unread = messageOf(error);
    }
  }

  edit(text: string): void {
    if (text === this.text) return;
    this.text = text;
    this.done = null;
    this.unsaved = null;
    this.checked = false;
    clearTimeout(this.#timer);
    this.#checking?.abort();
    this.#timer = setTimeout(() => void this.check(), TYPED);
  }

  /** Ask the service what is wrong with the text. */
  async check(): Promise<void> {
    clearTimeout(this.#timer);
    this.#checking?.abort();
    const checking = (this.#checking = new AbortController());
    const text = this.text;
    this.unchecked = null;
    try {
      const { mistakes } = await this.client().post<{ mistakes: Mistake[] }>(
        `${PATH}/check`,
        { text },
        checking.signal,
      );
      if (text !== this.text) return;
      this.mistakes = mistakes;
      this.checked = true;
    } catch (error) {
      if (isAbort(error)) return;
      // Mistakes of an older text would be told at the wrong lines.
      this.mistakes = [];
      this.unchecked = messageOf(error);
    }
  }

  /** Write the text and have it read. True: it is done; else `mistakes`, `theirs` or `unsaved` say why not. */
  async save(): Promise<boolean> {
    const before = this.file;
    if (!before || this.saving) return false;
    const text = this.text;
    this.saving = true;
    this.unsaved = null;
    try {
      this.#saved(before, await this.client().put<ModelsFile>(PATH, { text, version: before.version }));
      return true;
    } catch (error) {
      return await this.#refused(error, before, text);
    } finally {
      this.saving = false;
      // What was asked before may be answered with the file as it was then.
      this.#asked += 1;
    }
  }

  /** Back to what the file has now. */
  revert(): void {
    const file = this.theirs ?? this.file;
    if (file) this.#take(file);
  }

  takeTheirs(): void {
    if (this.theirs) this.#take(this.theirs);
  }

  /** Go on with the own text: what is saved next replaces theirs. */
  keepMine(): void {
    if (this.theirs) this.file = this.theirs;
    this.theirs = null;
  }

  /** Nobody looks at it: nothing more is asked until the next `load` or `check`. */
  rest(): void {
    clearTimeout(this.#timer);
    this.#checking?.abort();
    this.#asked += 1;
  }

  #know(file: ModelsFile): void {
    this.unread = null;
    if (file.version === this.file?.version) {
      this.file = file; // whether it may be written may have changed
      this.theirs = null; // they have taken theirs back
      if (!this.checked) void this.check();
    } else if (this.dirty && file.text !== this.text) {
      this.theirs = file;
      if (!this.checked) void this.check();
    } else {
      this.#take(file);
    }
  }

  #saved(before: ModelsFile, file: ModelsFile): void {
    this.file = file;
    this.theirs = null;
    this.done = `Saved. ${changeWords(entryChanges(before.text, file.text))}`;
  }

  /** True: it is saved all the same, and only the answer was lost. */
  async #refused(error: unknown, before: ModelsFile, text: string): Promise<boolean> {
    const code = error instanceof ApiError ? error.code : null;
    if (error instanceof ApiError && Array.isArray(error.details.mistakes)) {
      if (text !== this.text) return false;
      this.mistakes = error.details.mistakes as Mistake[];
      this.checked = true;
      return false;
    }
    const open = error instanceof Unreachable || code === 'models_file_changed' || code === 'reload_refused';
    const file = open ? await this.#now() : null;
    if (file && code === 'models_file_changed') {
      this.theirs = file;
      return false;
    }
    if (file?.text === text) {
      this.#saved(before, file);
      if (code !== 'reload_refused') return true;
      this.done = null;
    }
    this.unsaved = refusal(error, code, file !== null);
    return false;
  }

  #now(): Promise<ModelsFile | null> {
    return this.client()
      .get<ModelsFile>(PATH)
      .catch(() => null);
  }

  #take(file: ModelsFile): void {
    this.file = file;
    this.theirs = null;
    this.unsaved = null;
    this.text = file.text;
    void this.check();
  }
}

/** `known`: what is in the file now. */
function refusal(error: unknown, code: string | null, known: boolean): string {
  const said = messageOf(error);
  if (code === 'reload_refused') return `The file is written, but the service goes on with what it had before: ${said}`;
  if (error instanceof Unreachable && !known) return `${said} Whether the file was written is not known.`;
  return `Nothing was saved: ${said}`;
}
