// One picture: in a frame of the colour of the device that draws it, with the steps beneath it, each
// in the colour of the device that took it, and what happened on the way.

import { html, nothing } from './part.js';
import { icon } from './icons.js';
import { node } from './node.js';
import { isOpen, state } from './state.js';
import { seconds, sentence, t } from './words.js';

const sources = new Map();
node.addEventListener('pictureforgotten', ({ detail }) => sources.delete(detail));

// Where a finished picture is; empty until it is known where <img> finds it.
export function sourceOf(path) {
  if (!node.key) return new URL(path, document.baseURI).href;
  if (!sources.has(path)) {
    sources.set(path, '');
    node.picture(path).then(
      (found) => {
        sources.set(path, found);
        state.changed();
      },
      () => sources.delete(path),
    );
  }
  return sources.get(path) ?? '';
}

export const imagePath = (task) => `v1/tasks/${task.id}/image`;
export const thumbnailPath = (task) => `v1/tasks/${task.id}/image?thumbnail=384`;
export const colourClass = (nodeId) => (nodeId ? `c${state.colourOf(nodeId)}` : 'c-none');

export function aspectOf(task) {
  const [width, height] = (task.size ?? '1x1').split('x').map(Number);
  return `${width} / ${height}`;
}

export const etaS = (task) => Math.max(0, (task.etaAt - Date.now()) / 1000);

export function statusLine(task) {
  if (task.status === 'failed') return task.error?.message ?? t('failed');
  if (task.status === 'cancelled') return t('cancelled');
  if (task.status === 'completed') {
    return task.delay_s ? seconds(task.delay_s) : t('completed');
  }
  if (task.status === 'in_progress') {
    const told = t('stepOf', { k: task.step, z: task.steps });
    return `${told} · ${t('left', { s: seconds(etaS(task)) })}`;
  }
  if (!task.executor) return t('placing');
  const place = state.placeOf(task);
  return place > 1 ? t('place', { n: place }) : t('next');
}

// Why it moved, and by how much it should be sooner.
export function whyMoved({ from, to, reason, gainS }) {
  const told = reason ? t(`move_${reason}`, { from, to }) : '';
  return [told, gainS > 0 ? t('gain', { s: seconds(gainS) }) : ''].filter(Boolean);
}

function storyLine(one) {
  if (one.kind === 'gone') return t('lost', { node: one.from, k: one.step });
  if (one.kind === 'resumed') return t('goesOn', { node: one.to, k: one.step });
  const moved = t('movedTo', { from: one.from, to: one.to });
  return [moved, ...whyMoved(one)].join(' · ');
}

// The steps, as many as there are, or as many as can be told apart.
export function trail(task) {
  const steps = task.steps || 1;
  const shown = Math.min(steps, 60);
  const ticks = [];
  for (let index = 0; index < shown; index += 1) {
    const step = Math.floor(((index + 1) * steps) / shown);
    const by = task.trail[step - 1];
    const done = step <= task.step;
    ticks.push(html`<i class=${done ? `done ${colourClass(by ?? task.executor)}` : ''}></i>`);
  }
  return html`<div class="trail" role="progressbar" aria-label=${t('progress')} aria-valuemin="0"
    aria-valuemax=${steps} aria-valuenow=${task.step}>${ticks}</div>`;
}

export function devicePill(nodeId) {
  if (!nodeId) return nothing;
  return html`<span class="pill ${colourClass(nodeId)}"><span class="dot"></span>${nodeId}</span>`;
}

// Devices that took part, in order.
export function drawnBy(task) {
  const found = [...new Set(task.trail.filter(Boolean))];
  if (!found.length && task.executor) found.push(task.executor);
  return found;
}

function inside(task) {
  const text = t('imageOf', { prompt: task.prompt ?? '' });
  if (task.status === 'completed') {
    const source = sourceOf(imagePath(task));
    return source ? html`<img class="final" src=${source} alt=${text}>` : html`<div class="noise"></div>`;
  }
  if (task.preview && isOpen(task)) {
    return html`<img class="preview" src=${task.preview} alt=${text} data-step=${task.previewStep}>`;
  }
  if (isOpen(task)) return html`<div class="noise"></div>`;
  return html`<div class="none">${icon(task.status === 'failed' ? 'cross' : 'gallery')}</div>`;
}

export function picture(task, { actions = nothing } = {}) {
  const gone = isOpen(task) && task.executor && state.nodes.get(task.executor)?.alive === false;
  const classes = `picture ${colourClass(task.executor)} is-${task.status} ${gone ? 'is-lost' : ''}`;
  const story = task.story.slice(-4);
  return html`<figure class=${classes} data-task=${task.id} data-executor=${task.executor ?? ''}>
    <div class="frame" .style=${`aspect-ratio: ${aspectOf(task)}`}>${inside(task)}</div>
    ${trail(task)}
    <figcaption>
      <div class="line">
        <span class="who">${drawnBy(task).map(devicePill)}</span>
        <span class="said">${statusLine(task)}</span>
      </div>
      ${story.length
        ? html`<ol class="story">${story.map((one) => html`<li class=${one.kind}>${storyLine(one)}</li>`)}</ol>`
        : nothing}
      ${actions}
    </figcaption>
  </figure>`;
}

// What is asked of the node at the press of a button; where it fails, that is said.
async function attempted(asked) {
  try {
    await asked();
  } catch (problem) {
    state.fail(sentence(problem));
  }
}

export const download = (task) => attempted(() => fetchFile(task));
export const cancel = (task) => attempted(() => cancelled(task));

async function fetchFile(task) {
  const blob = await node.blob(imagePath(task));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = `${task.id}.${(task.output_format ?? 'png').replace('jpeg', 'jpg')}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function cancelled(task) {
  state.read(await node.ask(`v1/tasks/${task.id}`, { method: 'DELETE' }));
}
