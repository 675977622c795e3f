// What an operator does to a device: it takes no new work, gives back what it has, or works again; a
// dead one is taken out of the cluster, and let in again.

import { html, nothing } from './part.js';
import { icon } from './icons.js';
import { node } from './node.js';
import { state } from './state.js';
import { sentence, t } from './words.js';

const OFFERED = {
  alive: ['pause', 'drain'],
  draining: ['pause', 'drain'],
  paused: ['resume', 'drain'],
  away: ['remove'],
};
const problems = new Map();
// Who is to be removed, once that is said again.
let doubted = '';

async function operate(name, action) {
  if (action === 'remove' && doubted !== name) {
    doubted = name;
    state.changed();
    return;
  }
  doubted = '';
  problems.delete(name);
  try {
    const { paused } = await node.ask(`v1/nodes/${name}/${action}`, { method: 'POST' });
    const one = state.nodes.get(name);
    if (one && paused !== undefined) state.nodes.set(name, { ...one, paused, accepting: !paused });
  } catch (problem) {
    problems.set(name, sentence(problem));
  }
  state.changed();
  state.readCluster();
}

function button(name, action) {
  const says = t(action === 'remove' && doubted === name ? 'sureRemove' : action);
  return html`<button class="quiet ${action === 'remove' ? 'danger' : ''}" aria-label=${`${says}: ${name}`}
    @click=${() => operate(name, action)}>${icon(action)}${says}</button>`;
}

function problemOf(name) {
  const said = problems.get(name);
  return said ? html`<p class="problem" role="alert">${said}</p>` : nothing;
}

export function operatorsActions(one, standing) {
  const offered = OFFERED[standing];
  if (!offered) return nothing;
  return html`<div class="operating actions">${offered.map((action) => button(one.node, action))}
    ${problemOf(one.node)}</div>`;
}

// Devices that are out of the cluster; whoever operates it lets them in again.
export function removedDevices() {
  const removed = state.cluster?.removed ?? [];
  if (!removed.length) return nothing;
  return html`<section class="removed" aria-label=${t('removed')}><h2>${t('removed')}</h2>
    <ul>${removed.map((one) => html`<li><span>${one.node}</span> <span class="muted">${one.address ?? ''}</span>
      ${state.operator ? button(one.node, 'readmit') : nothing}${problemOf(one.node)}</li>`)}</ul></section>`;
}
