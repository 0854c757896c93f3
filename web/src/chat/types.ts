/** What a conversation is, as IndexedDB and exported files have it. Times are milliseconds since the epoch. */

export interface ChatImage {
  id: string;
  name: string;
  /** `data:image/…;base64,…`, made small enough to be sent. */
  url: string;
}

/** Sampling and limits of requests; what is missing is left to the model's own defaults. */
export interface Parameters {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  typical_p?: number;
  repeat_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  seed?: number;
  max_tokens?: number;
  ctx?: number;
  stop?: string[];
}

/** How an answer came about. Seconds. */
export interface AnswerStats {
  model: string;
  personality: string | null;
  /** From the request to the first token; loading included. */
  firstToken: number | null;
  /** How long it thought before it answered. */
  thinking: number | null;
  seconds: number;
  promptTokens: number | null;
  cachedTokens: number | null;
  completionTokens: number | null;
  tokensPerSecond: number | null;
  finishReason: string | null;
}

/** A turn. Its `parent` is the turn before it; turns with the same parent are branches of each other. */
export interface Message {
  id: string;
  parent: string | null;
  role: 'user' | 'assistant';
  text: string;
  /** Somebody has put it in other words. */
  edited?: boolean;
  reasoning: string;
  images: ChatImage[];
  at: number;
  stats: AnswerStats | null;
  /** Why the answer ended early: it was stopped, or an error in words. */
  stopped: boolean;
  error: string | null;
}

/** What answers, and how it is asked to. */
export interface Setup {
  model: string | null;
  personality: string | null;
  system: string;
  parameters: Parameters;
}

/** Whose a conversation is: that of a key at the address of a service; null: no key was asked for. */
export interface Owner {
  service: string;
  key: string | null;
}

export interface Conversation extends Setup {
  id: string;
  title: string;
  /** Whether somebody gave it its title; else that is made of the first turn. */
  named: boolean;
  /** Missing: it is listed for all. */
  owner?: Owner;
  created: number;
  changed: number;
  /** What answers beside it: every prompt goes to both. */
  second: Setup | null;
  /** Two answers to one turn that stand side by side until one of them is kept. */
  pair: [string, string] | null;
  messages: Record<string, Message>;
  /** The last turn of the branch that is shown. */
  leaf: string | null;
}

/** A conversation without its turns: what a list of them needs. */
export type Head = Omit<Conversation, 'messages'>;
