// Gallery: what was drawn, newest first, of all nodes.

import { html, nothing, Part, repeat } from './part.js';
import { icon } from './icons.js';
import { node } from './node.js';
import { isOpen, state } from './state.js';
import { aspectOf, colourClass, sourceOf, thumbnailPath } from './picture.js';
import { show } from './task.js';
import { t } from './words.js';

const PAGE = 60;
const WANTED_AT_ONCE = 24;
const PAGES_AT_ONCE = 6;
const FILTERS = { whose: '', status: 'completed', model: '', device: '' };

class Gallery extends Part {
  filters = { ...FILTERS };
  ids = new Set();
  cursor = null;
  more = true;
  missing = [];
  problem = '';
  loading = 0;

  connectedCallback() {
    super.connectedCallback();
    this.ended = ({ detail }) => {
      this.ids.add(detail.id);
      this.requestUpdate();
    };
    state.addEventListener('ended', this.ended);
    this.load(true);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    state.removeEventListener('ended', this.ended);
  }

  fits(task) {
    const { whose, status, model, device } = this.filters;
    return !isOpen(task)
      && (!status || task.status === status)
      && (!model || task.model === model)
      && (!device || task.executor === device || task.trail.includes(device))
      && (!whose || state.isMine(task));
  }

  found() {
    return [...this.ids].map((id) => state.tasks.get(id)).filter((task) => task?.known && this.fits(task))
      .sort((a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1));
  }

  // Pages until there are as many as can be seen; where few are wanted of many, some more.
  async load(anew) {
    const turn = (this.loading += 1);
    if (anew) Object.assign(this, { ids: new Set(), cursor: null, more: true });
    const enough = this.found().length + WANTED_AT_ONCE;
    this.problem = '';
    try {
      for (let page = 0; page < PAGES_AT_ONCE && this.more && this.found().length < enough; page += 1) {
        const query = new URLSearchParams({ limit: PAGE, status: this.filters.status || 'completed,failed,cancelled' });
        if (this.filters.model) query.set('model', this.filters.model);
        if (this.filters.whose && node.keyId) query.set('owner', node.keyId);
        if (this.cursor) query.set('cursor', this.cursor);
        const told = await node.ask(`v1/tasks?${query}`);
        if (turn !== this.loading) return;
        for (const one of told.data) if (!one.erased) this.ids.add(state.read(one).id);
        this.cursor = told.next_cursor;
        this.more = told.has_more;
        this.missing = told.missing.map((one) => one.node ?? one.address);
      }
    } catch (problem) {
      this.problem = problem.status ? problem.message : '';
    }
    this.requestUpdate();
  }

  choose(name, value) {
    this.filters[name] = value;
    this.load(true);
  }

  select(name, label, options) {
    return html`<label class="filter"><span class="hidden">${t(label)}</span>
      <select name=${name} @change=${(event) => this.choose(name, event.target.value)}>
        ${options.map(([value, said]) => html`<option value=${value} ?selected=${value === this.filters[name]}>${said}</option>`)}
      </select></label>`;
  }

  render() {
    const found = this.found();
    const statuses = ['completed', 'failed', 'cancelled'].map((one) => [one, t(one)]);
    return html`<div class="gallery">
      <div class="bar filters">
        ${this.select('whose', 'whose', [['', t('everyone')], ['mine', t('mine')]])}
        ${this.select('status', 'status', [...statuses, ['', t('all')]])}
        ${this.select('device', 'device', [['', t('anyDevice')], ...[...state.nodes.keys()].map((id) => [id, id])])}
        ${state.models.length > 1 ? this.select('model', 'model', [['', t('anyModel')], ...state.models.map(({ id }) => [id, id])]) : nothing}
        ${this.missing.length ? html`<span class="muted">${t('missing', { nodes: this.missing.join(', ') })}</span>` : nothing}
      </div>
      <p class="problem" role="alert">${this.problem}</p>
      ${found.length
        ? html`<ul class="wall">${repeat(found, (task) => task.id, (task) => this.tile(task))}</ul>`
        : html`<p class="nothing">${this.more ? '' : t('noneDrawn')}</p>`}
      ${this.more && found.length ? html`<button class="quiet load" @click=${() => this.load(false)}>${t('loadMore')}</button>` : nothing}
    </div>`;
  }

  tile(task) {
    return html`<li><button class="tile ${colourClass(task.executor)}" title=${task.prompt ?? ''} @click=${() => show(task)}
      aria-label=${`${t(task.status)}: ${task.prompt ?? t('noPrompt')}, ${task.executor ?? ''}`} .style=${`aspect-ratio: ${aspectOf(task)}`}>
      ${task.status === 'completed'
        ? html`<img src=${sourceOf(thumbnailPath(task))} alt="" loading="lazy">`
        : html`<span class="none">${icon('cross')}</span>`}</button></li>`;
  }
}

customElements.define('de-gallery', Gallery);
