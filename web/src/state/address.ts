/** The address of a service as the client wants it, without an end; or what is wrong with it, for people. */
export type Address = { base: string; problem: null } | { base: null; problem: string };

/** `typed` as somebody wrote or pasted it; `page` is where this page came from, `served` whether that is a service. */
export function addressOf(typed: string, page: URL, served: boolean): Address {
  const text = typed.trim();
  if (!text) return served ? good('') : wrong('Enter the address of the service, as https://gpu-box.example:8443.');
  if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) {
    return wrong(`The address has to begin with https:// or http://, as https://${text.replace(/^[/:]+/, '')}.`);
  }
  const url = URL.canParse(text) ? new URL(text) : null;
  if (!url) return wrong('That is not an address. One looks like https://gpu-box.example:8443.');
  if (url.protocol !== 'https:' && url.protocol !== 'http:') {
    return wrong('The address has to begin with https:// or http://.');
  }
  if (url.username || url.password) return wrong('The address has no user name and no password. The key goes below.');
  if (url.protocol === 'http:' && page.protocol === 'https:' && !isLoopback(url.hostname)) {
    return wrong(
      'This page came over HTTPS, and browsers let such a page speak to an https:// address only. ' +
        `Use the service's https:// address, or open ${url.origin} itself.`,
    );
  }
  const base = url.origin + url.pathname.replace(/\/+$/, '').replace(/\/v1$/, '');
  return good(served && base === page.origin ? '' : base);
}

function isLoopback(host: string): boolean {
  return /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/.test(host);
}

function good(base: string): Address {
  return { base, problem: null };
}

function wrong(problem: string): Address {
  return { base: null, problem };
}
