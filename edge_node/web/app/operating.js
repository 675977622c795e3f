// What an operator does to a device: it takes no new work, gives back what it has, or works again.

import { html, nothing } from './part.js';
import { icon } from './icons.js';
import { node } from './node.js';
import { state } from './state.js';
import { t } from './words.js';

const OFFERED = { alive: ['pause', 'drain'], draining: ['pause', 'drain'], paused: ['resume', 'drain'] };
const problems = new Map();

async function operate(one, action) {
  problems.delete(one.node);
  try {
    const { paused } = await node.ask(`v1/nodes/${one.node}/${action}`, { method: 'POST' });
    state.nodes.set(one.node, { ...one, paused, accepting: !paused });
  } catch (problem) {
    problems.set(one.node, problem.message);
  }
  state.changed();
  state.readCluster();
}

export function operatorsActions(one, standing) {
  const offered = OFFERED[standing];
  if (!offered) return nothing;
  const said = problems.get(one.node);
  return html`<div class="operating actions">${offered.map((action) => html`
    <button class="quiet" aria-label=${`${t(action)}: ${one.node}`} @click=${() => operate(one, action)}>${icon(action)}${t(action)}</button>`)}
    ${said ? html`<p class="problem" role="alert">${said}</p>` : nothing}</div>`;
}
