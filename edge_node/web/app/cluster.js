// Cluster: a card for each device with its tasks as chips, what all of them are together, and who
// decides. A task that goes from one device to another is seen flying there.

import { html, nothing, Part, repeat } from './part.js';
import { isOpen, state } from './state.js';
import { colourClass, etaS, sourceOf, thumbnailPath, trail, whyMoved } from './picture.js';
import { operatorsActions, removedDevices } from './operating.js';
import { show } from './task.js';
import { number, policyName, seconds, t } from './words.js';

const FLIGHT_MS = 650;
const CHIPS_MAX = 60;

const draws = (one) => one.alive && one.accepting && one.capacity > 0;

export function standing(one) {
  if (!one.alive) return 'away';
  if (one.paused) return 'paused';
  return one.accepting ? 'alive' : 'draining';
}

// Seconds of work ahead: what the device said last, and what is known to have come since.
function aheadS(one, tasks) {
  return Math.max(one.backlog / one.capacity || 0, ...tasks.map(etaS));
}

class Cluster extends Part {
  connectedCallback() {
    super.connectedCallback();
    this.flew = ({ detail }) => this.fly(detail);
    state.addEventListener('flight', this.flew);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    state.removeEventListener('flight', this.flew);
  }

  fly({ task, from, to }) {
    if (from === to || matchMedia('(prefers-reduced-motion: reduce)').matches) return;
    const [start, end] = [from, to].map((id) => this.querySelector(`[data-node="${CSS.escape(id)}"] .chips`));
    if (!start || !end) return;
    const [a, b] = [start.getBoundingClientRect(), end.getBoundingClientRect()];
    const flying = document.createElement('div');
    flying.className = `flying ${colourClass(to)} ${state.isMine(task) ? 'mine' : ''}`;
    this.append(flying);
    const at = (box) => `translate(${box.left + 8}px, ${box.top + 4}px)`;
    const middle = `translate(${(a.left + b.left) / 2 + 8}px, ${Math.min(a.top, b.top) - 26}px) scale(1.25)`;
    flying.animate([{ transform: at(a) }, { transform: middle }, { transform: at(b) }], {
      duration: FLIGHT_MS,
      easing: 'ease-in-out',
    }).onfinish = () => flying.remove();
  }

  render() {
    const nodes = [...state.nodes.values()];
    const open = [...state.tasks.values()].filter(isOpen);
    return html`<div class="cluster">
      ${this.together(nodes, open)}
      <div class="cards">${repeat(nodes, (one) => one.node, (one) => this.card(one, open.filter((task) => task.executor === one.node)))}</div>
      ${removedDevices()}
    </div>`;
  }

  // What the device that was asked would take alone, and what all take together.
  together(nodes, open) {
    const own = state.nodes.get(state.self);
    const one = own?.capacity > 0 ? own : nodes.find(draws);
    const all = nodes.filter((other) => draws(other) && other.model === one?.model);
    const speed = all.reduce((sum, { capacity }) => sum + capacity, 0);
    if (!one || !speed) return nothing;
    const at = (id) => open.filter((task) => task.executor === id);
    const work = all.reduce((sum, other) => sum + aheadS(other, at(other.node)) * other.capacity, 0);
    const busy = work / one.capacity > 1;
    const told = busy
      ? t('alone', { node: one.node, a: seconds(work / one.capacity), t: seconds(work / speed) })
      : t('together', { n: all.length, f: number(speed / one.capacity), node: one.node });
    return html`<section class="together"><div>
        <h2>${told}</h2>
        <div class="race" aria-hidden="true">
          <div class="lane"><i class=${colourClass(one.node)} .style=${'flex-grow: 1'}></i></div>
          <div class="lane" .style=${`width: ${Math.max(3, (100 * one.capacity) / speed)}%`}>
            ${all.map((other) => html`<i class=${colourClass(other.node)} .style=${`flex-grow: ${other.capacity / speed}`}></i>`)}</div>
        </div></div>
      ${this.decides()}</section>`;
  }

  decides() {
    const { guard, policy } = state.cluster ?? {};
    const deciding = policyName(guard?.deciding ?? policy);
    const learned = guard && guard.deciding === guard.wanted;
    return html`<dl class="decides"><dt>${t('decides')}</dt>
      <dd>${deciding} <small>${t(learned ? 'learned' : 'rule')}</small></dd>
      ${guard?.reason ? html`<dd class="muted">${guard.reason}</dd>` : nothing}</dl>`;
  }

  card(one, tasks) {
    const now = standing(one);
    const order = (task) => (task.status === 'in_progress' ? -1 : (task.queue_position ?? 0));
    tasks.sort((a, b) => order(a) - order(b) || (a.id < b.id ? -1 : 1));
    return html`<article class="device card ${colourClass(one.node)} is-${now}" data-node=${one.node}>
      <div class="top"><h3><span class="dot"></span>${one.node}</h3>
        ${one.node === state.self ? html`<small class="youare">${t('you')}</small>` : nothing}
        <span class="state">${t(now)}</span></div>
      <p class="muted what">${[one.emulated_device || one.device, (one.models ?? []).join(', ')].filter(Boolean).join(' · ')}</p>
      ${this.easel(one, tasks)}
      <div class="chips" role="list" aria-label=${t('tasksOf', { node: one.node })}>
        ${tasks.length
          ? repeat(tasks.slice(0, CHIPS_MAX), (task) => task.id, (task) => this.chip(task))
          : html`<span class="muted" role="listitem">${now === 'away' ? '' : t('idle')}</span>`}
        ${tasks.length > CHIPS_MAX ? html`<span class="muted" role="listitem">+${tasks.length - CHIPS_MAX}</span>` : nothing}</div>
      ${now === 'away' ? nothing : this.figures(one, tasks)}
      ${state.operator ? operatorsActions(one, now) : nothing}
    </article>`;
  }

  // What the device draws now; else what it drew last.
  easel(one, tasks) {
    const now = tasks.filter((task) => task.preview && task.status === 'in_progress').slice(0, 4);
    if (now.length) {
      return html`<div class="easel ${now.length > 1 ? 'many' : ''}">${repeat(now, (task) => task.id, (task) => html`
        <button aria-label=${`${t('in_progress')}: ${task.prompt ?? ''}`} @click=${() => show(task)}><img src=${task.preview} alt=""></button>`)}</div>
        ${trail(now[0])}`;
    }
    const last = [...state.tasks.values()]
      .filter((task) => task.status === 'completed' && task.known && task.executor === one.node)
      .reduce((a, b) => (a && a.finished_at >= b.finished_at ? a : b), null);
    return html`<div class="easel">${last
      ? html`<button aria-label=${`${t('completed')}: ${last.prompt ?? ''}`} @click=${() => show(last)}><img class="former" src=${last.preview ?? sourceOf(thumbnailPath(last))} alt=""></button>`
      : html`<div class="noise"></div>`}</div><div class="trail"></div>`;
  }

  chip(task) {
    const moved = task.story.findLast((line) => line.kind === 'moved');
    const why = moved
      ? [`${moved.from} → ${moved.to}`, ...whyMoved(moved)]
      : [policyName(task.policy), task.policy_reason];
    const told = [task.prompt ?? task.id, t(task.status), ...why].filter(Boolean).join(' · ');
    const share = task.steps ? task.step / task.steps : 0;
    return html`<span role="listitem"><button class="chip ${state.isMine(task) ? 'mine' : ''}" title=${told} aria-label=${told}
      @click=${() => show(task)}><i .style=${`transform: scaleY(${share.toFixed(3)})`}></i></button></span>`;
  }

  figures(one, tasks) {
    const most = Math.max(...[...state.nodes.values()].map(({ capacity }) => capacity ?? 0));
    const reading = one.reading ?? {};
    const facts = [
      ['work', one.capacity > 0 ? seconds(aheadS(one, tasks)) : '–'],
      ['load', reading.gpu_load !== undefined && reading.gpu_load !== null ? `${Math.round(100 * reading.gpu_load)} %` : ''],
      ['heat', reading.temperature_c ? `${Math.round(reading.temperature_c)} °C` : ''],
      ['power', reading.power_w ? `${number(reading.power_w)} W` : ''],
      ['mode', reading.power_mode ?? ''],
      ['helpedBy', one.helped_by ?? ''],
    ].filter(([, value]) => value);
    return html`<dl class="figures">
      <div class="speed"><dt>${t('speed')}</dt><dd>${number(one.capacity ?? 0)}/s<span class="meter" aria-hidden="true"><i .style=${`width: ${(100 * (one.capacity ?? 0)) / (most || 1)}%`}></i></span></dd></div>
      ${facts.map(([name, value]) => html`<div><dt>${t(name)}</dt><dd>${value}</dd></div>`)}</dl>`;
  }
}

customElements.define('de-cluster', Cluster);
