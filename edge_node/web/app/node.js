// What the page asks of its node: requests with the key, and the one stream of events.

const ANSWER_MS = 15_000;
// What an image to start from has to get through at least.
const UPLOAD_BYTES_PER_MS = 30;
// The node sends a comment every 15 s where nothing happens.
const SILENCE_MS = 40_000;
// Fetched with the key, and held by the page.
const PICTURES_MAX = 300;
const AGAIN_MS = [300, 700, 1500, 3000];

export const at = (path) => new URL(path, document.baseURI).href;

// The node refused, and said why.
export class Refused extends Error {
  constructor(status, told, retryAfterS) {
    super(told?.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = told?.code ?? '';
    this.param = told?.param ?? null;
    this.retryAfterS = retryAfterS;
  }
}

// Nobody answered.
export class Silent extends Error {}

class Node extends EventTarget {
  #key = sessionStorage.getItem('key') ?? '';
  #pictures = new Map();

  get key() {
    return this.#key;
  }

  // Of this session alone: a browser that is closed forgets it.
  set key(key) {
    this.#key = key.trim();
    sessionStorage.setItem('key', this.#key);
  }

  // Id of the key, as tasks have it on record.
  get keyId() {
    return /^dedgeai_([0-9a-f]{12})_/.exec(this.#key)?.[1] ?? '';
  }

  headers(more = {}) {
    return this.#key ? { ...more, Authorization: `Bearer ${this.#key}` } : more;
  }

  async #fetch(path, how) {
    let response;
    try {
      response = await fetch(at(path), { ...how, headers: this.headers(how.headers) });
    } catch (problem) {
      throw new Silent(problem.message);
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => ({}));
    const refused = new Refused(response.status, body.error, Number(response.headers.get('retry-after')) || 0);
    if (response.status === 401 || (response.status === 403 && path.startsWith('v1/events'))) {
      this.dispatchEvent(new CustomEvent('keywanted', { detail: refused }));
    }
    throw refused;
  }

  async ask(path, { method = 'GET', json, headers = {} } = {}) {
    const how = { method, headers };
    if (json !== undefined) {
      how.body = JSON.stringify(json);
      how.headers = { ...headers, 'Content-Type': 'application/json' };
    }
    how.signal = AbortSignal.timeout(ANSWER_MS + (how.body?.length ?? 0) / UPLOAD_BYTES_PER_MS);
    return (await this.#fetch(path, how)).json();
  }

  // A request that may be sent again where nobody answered: the node takes it once.
  async order(json) {
    const once = [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join('');
    const how = { method: 'POST', json, headers: { 'Idempotency-Key': once } };
    try {
      return await this.ask('v1/tasks', how);
    } catch (problem) {
      if (!(problem instanceof Silent)) throw problem;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS[0]));
      return this.ask('v1/tasks', how);
    }
  }

  // An address that <img> takes: it sends no key, so with one the page fetches pictures itself.
  async picture(path) {
    if (!this.#key) return at(path);
    if (!this.#pictures.has(path)) {
      const fetched = this.#fetch(path, { signal: AbortSignal.timeout(ANSWER_MS) })
        .then((response) => response.blob())
        .then((blob) => URL.createObjectURL(blob));
      fetched.catch(() => this.#pictures.delete(path));
      this.#pictures.set(path, fetched);
      if (this.#pictures.size > PICTURES_MAX) this.#forgetPicture();
    }
    return this.#pictures.get(path);
  }

  #forgetPicture() {
    const [path, fetched] = this.#pictures.entries().next().value;
    this.#pictures.delete(path);
    fetched.then((url) => URL.revokeObjectURL(url), () => {});
    this.dispatchEvent(new CustomEvent('pictureforgotten', { detail: path }));
  }

  async blob(path) {
    return (await this.#fetch(path, { signal: AbortSignal.timeout(ANSWER_MS) })).blob();
  }

  // The device of each step of a task that is over, as far as its node remembers.
  async trail(id) {
    const text = await (await this.#fetch(`v1/tasks/${id}/events`, { signal: AbortSignal.timeout(ANSWER_MS) })).text();
    const trail = [];
    for (const block of text.split('\n\n')) {
      const { data } = parsed(block);
      while (data?.type === 'step' && trail.length < data.step) trail.push(data.executor);
    }
    return trail;
  }

  // A stream ends with its key.
  #revoked(told) {
    const refused = new Refused(401, told, 0);
    this.dispatchEvent(new CustomEvent('keywanted', { detail: refused }));
    return refused;
  }

  // Until it may be asked again: with another key, or later.
  async #until({ status, retryAfterS }) {
    if (status === 401 || status === 403) {
      await new Promise((resolve) => {
        this.addEventListener('keygiven', resolve, { once: true });
      });
      return;
    }
    await new Promise((resolve) => {
      setTimeout(resolve, Math.max(1, retryAfterS) * 1000);
    });
  }

  // Follows all that happens, from where it was left, for as long as the page is open.
  // EventSource sends no key.
  async follow({ told, open, lost }) {
    let last = '';
    for (let failures = 0; ; failures += 1) {
      const ending = new AbortController();
      let silence;
      const heard = () => {
        clearTimeout(silence);
        silence = setTimeout(() => ending.abort(), SILENCE_MS);
      };
      try {
        heard();
        const headers = last ? { 'Last-Event-ID': last } : {};
        const response = await this.#fetch('v1/events?previews=true', {
          headers,
          signal: ending.signal,
          cache: 'no-store',
        });
        failures = 0;
        open();
        for await (const event of events(response.body, heard)) {
          last = event.id || last;
          if (event.name === 'error') throw this.#revoked(event.data.error);
          if (event.name) told(event.name, event.data);
        }
      } catch (problem) {
        if (problem instanceof Refused) {
          if (problem.status === 400) last = '';
          await this.#until(problem);
          continue;
        }
      } finally {
        clearTimeout(silence);
        ending.abort();
      }
      lost(failures);
      await new Promise((resolve) => {
        setTimeout(resolve, AGAIN_MS[Math.min(failures, AGAIN_MS.length - 1)]);
      });
    }
  }
}

async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    text += value;
    const blocks = text.split('\n\n');
    text = blocks.pop();
    for (const block of blocks) yield parsed(block);
  }
}

function parsed(block) {
  const event = { id: '', name: '', data: null };
  for (const line of block.split('\n')) {
    if (line.startsWith('id: ')) event.id = line.slice(4);
    else if (line.startsWith('event: ')) event.name = line.slice(7);
    else if (line.startsWith('data: ')) event.data = JSON.parse(line.slice(6));
  }
  return event;
}

export const node = new Node();
