import { ApiError, isAbort, messageOf, type Client } from '../../api/client';
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
  /** What went wrong with reading, checking or saving. */
  problem = $state<string | null>(null);
  /** What the last saving did. */
  done = $state<string | null>(null);
  /** Somebody else has changed the file meanwhile. */
  theirs = $state.raw<ModelsFile | null>(null);

  #timer: ReturnType<typeof setTimeout> | undefined;
  #checking: AbortController | null = null;

  constructor(private readonly client: Client) {}

  get dirty(): boolean {
    return this.file !== null && this.text !== this.file.text;
  }

  /** Read the file. What is being edited stays: it is told (`theirs`) where the file has become another one. */
  async load(): Promise<void> {
    try {
      const file = await this.client.get<ModelsFile>(PATH);
      this.problem = null;
      if (this.saving || file.version === this.file?.version) return;
      if (this.dirty && file.text !== this.text) this.theirs = file;
      else this.#take(file);
    } catch (error) {
      this.problem = messageOf(error);
    }
  }

  edit(text: string): void {
    if (text === this.text) return;
    this.text = text;
    this.done = null;
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
    try {
      const { mistakes } = await this.client.post<{ mistakes: Mistake[] }>(`${PATH}/check`, { text }, checking.signal);
      if (text !== this.text) return;
      this.mistakes = mistakes;
      this.checked = true;
      this.problem = null;
    } catch (error) {
      if (!isAbort(error)) this.problem = messageOf(error);
    }
  }

  /** Write the text and have it read. True: it is done; else `mistakes`, `theirs` or `problem` say why not. */
  async save(): Promise<boolean> {
    const before = this.file;
    if (!before || this.saving) return false;
    const text = this.text;
    this.saving = true;
    this.problem = null;
    try {
      const file = await this.client.put<ModelsFile>(PATH, { text, version: before.version });
      this.file = file;
      this.done = `Saved. ${changeWords(entryChanges(before.text, file.text))}`;
      return true;
    } catch (error) {
      await this.#refused(error, text);
      return false;
    } finally {
      this.saving = false;
    }
  }

  /** Back to what the file has. */
  revert(): void {
    if (this.file) this.#take(this.file);
  }

  takeTheirs(): void {
    if (this.theirs) this.#take(this.theirs);
  }

  /** Go on with the own text: what is saved next replaces theirs. */
  keepMine(): void {
    if (this.theirs) this.file = this.theirs;
    this.theirs = null;
  }

  /** Nobody needs it any more. */
  close(): void {
    clearTimeout(this.#timer);
    this.#checking?.abort();
  }

  async #refused(error: unknown, text: string): Promise<void> {
    if (error instanceof ApiError && error.code === 'models_file_changed') {
      try {
        this.theirs = await this.client.get<ModelsFile>(PATH);
      } catch (failure) {
        this.problem = messageOf(failure);
      }
    } else if (error instanceof ApiError && Array.isArray(error.details.mistakes)) {
      if (text !== this.text) return;
      this.mistakes = error.details.mistakes as Mistake[];
      this.checked = true;
    } else {
      this.problem = messageOf(error);
    }
  }

  #take(file: ModelsFile): void {
    this.file = file;
    this.theirs = null;
    this.text = file.text;
    void this.check();
  }
}
