// Queue: what is open, mine first, with its place and when it will be there.

import { html, nothing, Part, repeat } from './part.js';
import { icon } from './icons.js';
import { node } from './node.js';
import { isOpen, state } from './state.js';
import { cancel, cancelled, colourClass, devicePill, statusLine, trail, etaS } from './picture.js';
import { show } from './task.js';
import { seconds, sentence, t } from './words.js';

const SHOWN_MAX = 300;
const TOGETHER_MAX = 8;

class Queue extends Part {
  mineAlone = false;
  problem = '';

  tasks() {
    const order = (task) => [
      state.isMine(task) ? 0 : 1,
      task.status === 'in_progress' ? 0 : 1,
      task.etaAt ?? 0,
    ];
    return [...state.tasks.values()]
      .filter((task) => isOpen(task) && (!this.mineAlone || state.isMine(task)))
      .map((task) => [order(task), task])
      .sort(([a], [b]) => a.map((one, index) => one - b[index]).find((one) => one !== 0) ?? 0)
      .map(([, task]) => task);
  }

  async cancelMine() {
    const mine = [...state.tasks.values()].filter((task) => isOpen(task) && state.isMine(task));
    this.problem = '';
    try {
      if (node.keyId) {
        await node.ask(`v1/tasks?status=queued,in_progress&owner=${node.keyId}`, { method: 'DELETE' });
      } else {
        while (mine.length) await Promise.all(mine.splice(0, TOGETHER_MAX).map(cancelled));
      }
    } catch (problem) {
      this.problem = sentence(problem);
    }
    this.requestUpdate();
  }

  render() {
    const tasks = this.tasks();
    const mine = tasks.filter((task) => state.isMine(task)).length;
    const others = this.mineAlone || tasks.length > mine;
    return html`<div class="queue">
      <div class="bar">
        ${others
          ? html`<div class="choice" role="group" aria-label=${t('whose')}>${[false, true].map((alone) => html`
              <button aria-pressed=${alone === this.mineAlone} @click=${() => { this.mineAlone = alone; this.requestUpdate(); }}>${t(alone ? 'mine' : 'everyone')}</button>`)}</div>`
          : html`<span></span>`}
        ${mine ? html`<button class="quiet danger" @click=${() => this.cancelMine()}>${icon('cross')}${t('cancelAll')}</button>` : nothing}
      </div>
      <p class="problem" role="alert">${this.problem}</p>
      ${tasks.length
        ? html`<ul class="rows card">${repeat(tasks.slice(0, SHOWN_MAX), (task) => task.id, (task) => this.row(task))}</ul>`
        : html`<p class="nothing">${t('noneOpen')}</p>`}
    </div>`;
  }

  row(task) {
    return html`<li class="row ${colourClass(task.executor)} is-${task.status} ${state.isMine(task) ? 'mine' : ''}">
      <button class="what" @click=${() => show(task)}>${task.prompt ?? task.id}</button>
      <span class="where">${task.executor ? devicePill(task.executor) : html`<span class="muted">${t('placing')}</span>`}</span>
      <span class="how">${task.status === 'in_progress' ? trail(task) : html`<span class="muted">${statusLine(task)}</span>`}</span>
      <span class="when">${task.executor ? seconds(etaS(task)) : '–'}</span>
      ${state.isMine(task) || state.operator
        ? html`<button class="quiet danger" aria-label=${`${t('cancel')}: ${task.prompt ?? task.id}`} title=${t('cancel')} @click=${() => cancel(task)}>${icon('cross')}</button>`
        : html`<span></span>`}</li>`;
  }
}

customElements.define('de-queue', Queue);
