// The page: where one is, which node this is, the key, and what to do when the node is gone.

import { html, nothing, Part } from './part.js';
import { icon } from './icons.js';
import { node } from './node.js';
import { state } from './state.js';
import { currentLanguage, setLanguage, t } from './words.js';
import { elsewhere } from './elsewhere.js';
import './draw.js';
import './cluster.js';
import './queue.js';
import './gallery.js';
import './task.js';

const VIEWS = ['draw', 'cluster', 'queue', 'gallery'];

class App extends Part {
  view = 'draw';
  keyWanted = false;
  keyProblem = '';

  connectedCallback() {
    super.connectedCallback();
    window.addEventListener('hashchange', () => this.go());
    node.addEventListener('keywanted', ({ detail }) => {
      this.keyWanted = true;
      this.keyProblem = node.key ? detail.message : '';
      this.requestUpdate();
    });
    const theme = localStorage.getItem('theme');
    if (theme) document.documentElement.dataset.theme = theme;
    this.go();
    state.start();
    setInterval(() => elsewhere.look(), 500);
  }

  go() {
    const asked = location.hash.slice(1).split('?')[0];
    this.view = VIEWS.includes(asked) ? asked : 'draw';
    document.title = `${t(this.view)} · DEdgeAI`;
    this.requestUpdate();
  }

  turnTheme() {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === 'dark'
      : matchMedia('(prefers-color-scheme: dark)').matches;
    document.documentElement.dataset.theme = dark ? 'light' : 'dark';
    localStorage.setItem('theme', document.documentElement.dataset.theme);
  }

  turnLanguage() {
    setLanguage(currentLanguage() === 'zh' ? 'en' : 'zh');
    this.go();
    state.changed();
  }

  useKey(event) {
    event.preventDefault();
    node.key = event.target.elements.key.value;
    this.keyWanted = false;
    node.dispatchEvent(new Event('keygiven'));
    state.readCluster();
    state.readModels();
    state.readLatest();
    this.requestUpdate();
  }

  forgetKey() {
    node.key = '';
    location.reload();
  }

  updated() {
    const dialog = this.querySelector('dialog.key');
    if (this.keyWanted && dialog && !dialog.open) dialog.showModal();
  }

  render() {
    return html`
      <a class="skip" href="#main" @click=${(event) => { event.preventDefault(); this.querySelector('main').focus(); }}>${t('skip')}</a>
      <header>
        <a class="brand" href="#draw"><img src="web/icon.svg" alt="" width="26" height="26">DEdgeAI</a>
        <nav aria-label="DEdgeAI">${VIEWS.map((view) => html`
          <a href="#${view}" aria-current=${view === this.view ? 'page' : nothing}>${icon(view)}<span>${t(view)}</span>${view === 'queue' ? this.openCount() : nothing}</a>`)}</nav>
        <div class="tools">
          <span class="here ${state.connection}" title=${t('you')}><span class="dot"></span>${state.self}</span>
          ${node.key ? html`<button class="quiet" aria-label=${t('keyForget')} title=${t('keyForget')} @click=${() => this.forgetKey()}>${icon('key')}</button>` : nothing}
          <button class="quiet" aria-label=${t('language')} title=${t('language')} @click=${() => this.turnLanguage()}>${icon('language')}</button>
          <button class="quiet" aria-label=${t('theme')} title=${t('theme')} @click=${() => this.turnTheme()}>${icon('sun')}</button>
        </div>
      </header>
      ${this.banner()} ${this.failure()}
      <main id="main" tabindex="-1"><h1 class="hidden">${t(this.view)}</h1>${this.shown()}</main>
      <de-task></de-task>
      ${this.keyWanted ? this.keyDialog() : nothing}
      <div class="hidden" role="status" aria-live="polite">${this.said ?? ''}</div>`;
  }

  shown() {
    if (this.view === 'cluster') return html`<de-cluster></de-cluster>`;
    if (this.view === 'queue') return html`<de-queue></de-queue>`;
    if (this.view === 'gallery') return html`<de-gallery></de-gallery>`;
    return html`<de-draw></de-draw>`;
  }

  openCount() {
    const open = [...state.tasks.values()].filter((task) => task.status === 'queued' || task.status === 'in_progress');
    return open.length ? html`<b>${open.length}</b>` : nothing;
  }

  banner() {
    const told = elsewhere.says();
    return told ? html`<div class="banner" role="alert"><span class="dot"></span>${told}</div>` : nothing;
  }

  failure() {
    if (!state.problem) return nothing;
    return html`<div class="banner failure" role="alert">${state.problem}
      <button class="quiet" aria-label=${t('dismiss')} @click=${() => state.fail('')}>${icon('cross')}</button></div>`;
  }

  keyDialog() {
    return html`<dialog class="key card" aria-labelledby="keytitle" @cancel=${(event) => event.preventDefault()}>
      <form @submit=${(event) => this.useKey(event)}>
        <h2 id="keytitle">${t('keyTitle')}</h2>
        <label class="field"><span>${t('keyLabel')}</span>
          <input name="key" type="password" autocomplete="off" required autofocus></label>
        <p class="problem" role="alert">${this.keyProblem}</p>
        <p class="muted">${t('keyNote')}</p>
        <button class="primary">${t('keyGo')}</button>
      </form></dialog>`;
  }
}

state.addEventListener('ended', ({ detail: task }) => {
  if (!state.isMine(task)) return;
  const app = document.querySelector('de-app');
  app.said = `${t(task.status)}: ${task.prompt ?? ''}`;
  app.requestUpdate();
});

customElements.define('de-app', App);
