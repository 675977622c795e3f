// Where to go when the node is gone: to the first other node of the cluster that answers.
//
// Another node is another origin to a browser: it can be seen that it answers, and gone to. What is
// in the form, which pictures are shown and which are one's own goes along in the address.

import { state } from './state.js';
import { t } from './words.js';

const PATIENCE_MS = 3000;
const ANSWER_MS = 2000;
const MINE_MAX = 20;
const KEPT = ['form', 'stage'];

class Elsewhere {
  #trying = '';
  #looking = false;
  #from = '';
  #tried = new Set();

  // What came along from a node that is gone.
  arrive() {
    const [view, text] = location.hash.slice(1).split('?');
    if (!text) return;
    const along = new URLSearchParams(text);
    this.#from = along.get('from') ?? '';
    for (const name of KEPT) if (along.get(name)) sessionStorage.setItem(name, along.get(name));
    if (along.get('mine')) state.addMine(along.get('mine').split(','));
    history.replaceState(null, '', `#${view}`);
  }

  says() {
    if (state.connection === 'lost' && Date.now() - state.lostAt > 800) {
      const gone = t('gone', { node: state.self || location.host });
      return `${gone} ${this.#trying ? t('trying', { node: this.#trying }) : t('back')}`;
    }
    return this.#from && state.self ? t('came', { from: this.#from, node: state.self }) : '';
  }

  async look() {
    if (state.connection !== 'lost' || this.#looking) {
      if (state.connection === 'open') this.#tried.clear();
      return;
    }
    if (Date.now() - state.lostAt < PATIENCE_MS) return state.changed();
    this.#looking = true;
    for (const [id, one] of state.nodes) {
      if (id === state.self || !one.rest_url) continue;
      this.#trying = id;
      state.changed();
      if (await answers(one.rest_url)) {
        if (state.connection === 'lost') this.#goTo(one.rest_url);
        break;
      }
    }
    this.#trying = '';
    this.#looking = false;
  }

  #goTo(url) {
    const along = new URLSearchParams({ from: state.self, mine: state.mineIds.slice(-MINE_MAX).join(',') });
    for (const name of KEPT) along.set(name, sessionStorage.getItem(name) ?? '');
    const view = location.hash.slice(1).split('?')[0] || 'draw';
    location.assign(`${url.replace(/\/$/, '')}/#${view}?${along}`);
  }
}

async function answers(url) {
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    await fetch(`${url.replace(/\/$/, '')}/livez`, { mode: 'no-cors', cache: 'no-store', signal });
    return true;
  } catch {
    return false;
  }
}

export const elsewhere = new Elsewhere();
// Before the parts read what is kept.
elsewhere.arrive();
