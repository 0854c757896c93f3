/** Endings of files, where the language is not written like one. */
const ENDINGS: Record<string, string> = {
  bash: 'sh',
  'c#': 'cs',
  'c++': 'cpp',
  console: 'sh',
  csharp: 'cs',
  golang: 'go',
  haskell: 'hs',
  javascript: 'js',
  json5: 'json5',
  kotlin: 'kt',
  latex: 'tex',
  markdown: 'md',
  perl: 'pl',
  plaintext: 'txt',
  powershell: 'ps1',
  python: 'py',
  python3: 'py',
  ruby: 'rb',
  rust: 'rs',
  shell: 'sh',
  text: 'txt',
  typescript: 'ts',
  yaml: 'yml',
};
/** Languages whose files have a name and no ending. */
const NAMES: Record<string, string> = {
  docker: 'Dockerfile',
  dockerfile: 'Dockerfile',
  make: 'Makefile',
  makefile: 'Makefile',
};
const AS_IT_IS = /^[a-z][a-z0-9]{0,9}$/;

/** What a file of code in that language is called: `code.py`. */
export function fileName(language: string): string {
  const name = language.toLowerCase();
  if (Object.hasOwn(NAMES, name)) return NAMES[name]!;
  const ending = Object.hasOwn(ENDINGS, name) ? ENDINGS[name] : AS_IT_IS.test(name) ? name : 'txt';
  return `code.${ending}`;
}
