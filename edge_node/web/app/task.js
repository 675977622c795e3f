// One task at large: its picture, what it was drawn from, where its time went, what can be done.

import { html, nothing, Part } from './part.js';
import { icon } from './icons.js';
import { node } from './node.js';
import { isOpen, state } from './state.js';
import { cancel, colourClass, download, picture } from './picture.js';
import { takeOver } from './draw.js';
import { moment, number, policyName, seconds, sentence, t } from './words.js';

export function show(task) {
  state.dispatchEvent(new CustomEvent('show', { detail: task.id }));
}

class Task extends Part {
  id = '';
  sure = false;
  problem = '';

  connectedCallback() {
    super.connectedCallback();
    this.shown = ({ detail }) => {
      Object.assign(this, { task: state.tasks.get(detail), sure: false, problem: '' });
      state.readTrail(this.task);
      this.requestUpdate();
    };
    state.addEventListener('show', this.shown);
  }

  updated() {
    const dialog = this.querySelector('dialog');
    if (dialog && !dialog.open) dialog.showModal();
  }

  close() {
    this.task = null;
    this.requestUpdate();
  }

  async erase() {
    if (!this.sure) {
      this.sure = true;
      return this.requestUpdate();
    }
    try {
      await node.ask(`v1/tasks/${this.task.id}/erase`, { method: 'POST' });
      state.tasks.delete(this.task.id);
      state.dispatchEvent(new CustomEvent('erased', { detail: this.task.id }));
      this.close();
      state.changed();
    } catch (problem) {
      this.problem = sentence(problem);
      this.requestUpdate();
    }
  }

  use(seed) {
    takeOver(this.task, { seed });
    this.close();
    location.hash = 'draw';
  }

  render() {
    const { task } = this;
    if (!task) return nothing;
    return html`<dialog class="task card ${colourClass(task.executor)}" aria-label=${task.prompt ?? t('image')}
      @close=${() => this.close()} @click=${(event) => event.target === event.currentTarget && event.target.close()}>
      <div class="sheet">
        <button class="quiet shut" aria-label=${t('close')} @click=${() => this.querySelector('dialog').close()}>${icon('cross')}</button>
        ${picture(task)}
        <div class="told">
          <h2>${task.prompt ?? t('noPrompt')}</h2>
          ${this.split(task)} ${this.facts(task)}
          <p class="problem" role="alert">${this.problem}</p>
          ${this.actions(task)}
        </div>
      </div></dialog>`;
  }

  // Where the time went: waiting for the device, on it, and all ways between.
  split(task) {
    if (!task.delay_s || task.status !== 'completed') return nothing;
    const parts = [['waited', task.queue_s], ['drew', task.compute_s]];
    parts.push(['returned', Math.max(0, task.delay_s - task.queue_s - task.compute_s)]);
    return html`<div class="split"><div class="bar" aria-hidden="true">${parts.map(([name, s]) => html`
        <i class=${name} .style=${`flex-grow: ${Math.max(s / task.delay_s, 0.004)}`}></i>`)}</div>
      <dl>${parts.map(([name, s]) => html`<div class=${name}><dt>${t(name)}</dt><dd>${seconds(s)}</dd></div>`)}</dl></div>`;
  }

  facts(task) {
    const facts = [
      ['negative', task.negative_prompt],
      ['size', task.size?.replace('x', '×')],
      ['steps', task.num_inference_steps],
      ['guidance', task.guidance_scale !== undefined ? number(task.guidance_scale) : ''],
      ['seed', task.seed],
      ['strength', task.strength],
      ['model', task.model],
      ['asked', task.node],
      ['decides', [policyName(task.policy), task.policy_reason].filter(Boolean).join(' · ')],
      ['made', task.finished_at ? moment(task.finished_at) : ''],
    ].filter(([, value]) => value !== undefined && value !== null && value !== '');
    return html`<dl class="facts">${facts.map(([name, value]) => html`<dt>${t(name)}</dt><dd>${value}</dd>`)}</dl>`;
  }

  actions(task) {
    if (isOpen(task)) {
      return html`<div class="actions"><button class="quiet" @click=${() => cancel(task)}>${icon('cross')}${t('cancel')}</button></div>`;
    }
    return html`<div class="actions">
      <button class="quiet" @click=${() => this.use(true)}>${icon('again')}${t('again')}</button>
      <button class="quiet" @click=${() => this.use(false)}>${icon('vary')}${t('vary')}</button>
      ${task.status === 'completed' ? html`<button class="quiet" @click=${() => download(task)}>${icon('download')}${t('download')}</button>` : nothing}
      <button class="quiet danger" @click=${() => this.erase()}>${icon('delete')}${t(this.sure ? 'sure' : 'delete')}</button></div>`;
  }
}

customElements.define('de-task', Task);
