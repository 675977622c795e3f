// Draw: what is wanted, and the pictures as they come into being.

import { html, nothing, Part, repeat } from './part.js';
import { icon } from './icons.js';
import { node } from './node.js';
import { isOpen, state } from './state.js';
import { cancel, colourClass, download, picture, sourceOf, thumbnailPath } from './picture.js';
import { sentence, t } from './words.js';

const RECENT_MAX = 12;
const RATIOS = [[1, 1], [3, 2], [2, 3], [16, 9], [9, 16]];
const EXAMPLES = {
  shapes: [
    'a large red circle on the left on a white background',
    'a small blue star at the top and a large green square at the bottom',
    'a large yellow triangle in the middle on a black background',
  ],
  photos: [
    'a lighthouse in a storm, oil painting',
    'a red fox asleep in the snow, morning light, photograph',
    'a paper model of a small harbour town, studio light',
  ],
};
const EMPTY = {
  prompt: '', negative: '', model: '', size: '', steps: null, guidance: null, seed: '', count: 1,
  image: '', strength: null, imageMissing: false,
};

export const form = { ...EMPTY, ...JSON.parse(sessionStorage.getItem('form') ?? '{}'), image: '' };
export const stage = { ids: JSON.parse(sessionStorage.getItem('stage') ?? '[]') };

// Tasks that began from the image in the form.
const begun = new Set();

export function keepForm() {
  sessionStorage.setItem('form', JSON.stringify({ ...form, image: '' }));
}

function onStage(ids) {
  stage.ids = ids;
  sessionStorage.setItem('stage', JSON.stringify(ids));
}

// Fills the form with what a picture was drawn by.
export function takeOver(task, { seed }) {
  Object.assign(form, {
    prompt: task.prompt ?? '',
    negative: task.negative_prompt ?? '',
    model: task.model ?? '',
    size: task.size ?? '',
    steps: task.num_inference_steps ?? null,
    guidance: task.guidance_scale ?? null,
    seed: seed ? String(task.seed) : '',
    count: 1,
    image: begun.has(task.id) ? form.image : '',
    strength: task.strength ?? null,
  });
  form.imageMissing = Boolean(task.init_image_sha256) && !form.image;
  keepForm();
}

// Sizes of about the usual area, and the largest square.
function sizesOf({ limits, defaults }) {
  const side = Number(defaults.size.split('x')[0]);
  const fit = (px) => {
    const whole = Math.round(px / limits.size_px_multiple) * limits.size_px_multiple;
    return Math.min(limits.size_px_max, Math.max(limits.size_px_min, whole));
  };
  const sizes = RATIOS.map(([w, h]) => `${fit(side * Math.sqrt(w / h))}x${fit(side * Math.sqrt(h / w))}`);
  sizes.push(`${limits.size_px_max}x${limits.size_px_max}`);
  return [...new Set(sizes)];
}

class Draw extends Part {
  problem = '';
  sending = false;

  get model() {
    return state.models.find((one) => one.id === form.model) ?? state.models[0];
  }

  connectedCallback() {
    super.connectedCallback();
    this.pasted = (event) => this.takeImage([...event.clipboardData.files][0], event);
    document.addEventListener('paste', this.pasted);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    document.removeEventListener('paste', this.pasted);
  }

  set(name, value) {
    form[name] = value;
    this.problem = '';
    keepForm();
    this.requestUpdate();
  }

  say(problem) {
    this.problem = problem;
    this.requestUpdate();
  }

  // What was chosen of one model's sizes and steps need not be another's.
  setModel(id) {
    Object.assign(form, { size: '', steps: null, guidance: null, strength: null });
    this.set('model', id);
  }

  setImage(image) {
    begun.clear();
    form.imageMissing = false;
    this.set('image', image);
  }

  // A browser goes to a file that is dropped and not taken: the page would be gone.
  takeImage(file, event) {
    if (!file) return;
    event?.preventDefault();
    if (!file.type.startsWith('image/')) return this.say(t('notImage', { name: file.name }));
    const reader = new FileReader();
    reader.addEventListener('load', () => this.setImage(reader.result));
    reader.addEventListener('error', () => this.say(t('notImage', { name: file.name })));
    reader.readAsDataURL(file);
  }

  wanted() {
    const { defaults } = this.model;
    const steps = form.steps ?? defaults.num_inference_steps;
    const wanted = {
      prompt: form.prompt,
      n: form.count,
      num_inference_steps: steps,
      guidance_scale: form.guidance ?? defaults.guidance_scale,
      partial_images: Math.max(0, steps - 1),
    };
    if (state.models.length > 1) wanted.model = this.model.id;
    if (form.size) wanted.size = form.size;
    if (form.negative.trim()) wanted.negative_prompt = form.negative;
    if (form.seed !== '') wanted.seed = Number(form.seed);
    if (form.image) {
      wanted.init_image = form.image;
      wanted.strength = form.strength ?? defaults.strength;
    }
    return wanted;
  }

  async draw(event) {
    event?.preventDefault();
    if (this.sending || !this.model) return;
    if (form.imageMissing) {
      form.imageMissing = false;
      return this.say(t('imageMissing'));
    }
    this.sending = true;
    this.problem = '';
    this.requestUpdate();
    try {
      const wanted = this.wanted();
      const answer = await node.order(wanted);
      const tasks = answer.tasks ?? [answer];
      state.addMine(tasks.map((one) => one.id));
      if (wanted.init_image) for (const one of tasks) begun.add(one.id);
      for (const one of tasks) state.read(one);
      onStage(tasks.map((one) => one.id));
      this.querySelector('.stage')?.scrollIntoView({ block: innerWidth > 860 ? 'nearest' : 'start', behavior: 'smooth' });
    } catch (problem) {
      this.problem = sentence(problem);
    }
    this.sending = false;
    this.requestUpdate();
  }

  again(task, seed) {
    takeOver(task, { seed });
    this.draw();
  }

  keys(event) {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) this.draw(event);
  }

  render() {
    return html`<div class="draw">
      <form class="ask card" @submit=${(event) => this.draw(event)} @dragover=${(event) => event.preventDefault()}
        @drop=${(event) => this.takeImage(event.dataTransfer.files[0], event)}>
        ${this.promptField()} ${this.model ? this.settings() : nothing}
        <button class="primary" ?disabled=${this.sending || !this.model}>${t('draw')}</button>
        <p class="problem" role="alert">${this.problem}</p>
      </form>
      <section class="stage" aria-label=${t('image')}>${this.stageOf()}</section>
    </div>`;
  }

  promptField() {
    return html`<label class="prompt"><span class="hidden">${t('prompt')}</span>
      <textarea id="prompt" rows="3" maxlength=${this.model?.limits.prompt_chars_max ?? 32000} required
        placeholder=${t('promptHint')} .value=${form.prompt}
        @input=${(event) => this.set('prompt', event.target.value)} @keydown=${(event) => this.keys(event)}></textarea>
    </label>`;
  }

  settings() {
    const { limits, defaults } = this.model;
    const steps = form.steps ?? defaults.num_inference_steps;
    const stepsShown = Math.min(limits.num_inference_steps_max, Math.max(50, steps));
    return html`
      ${this.sizes()}
      <div class="pair">
        ${this.slider('steps', steps, { min: 1, max: stepsShown, step: 1 })}
        ${this.counter()}
      </div>
      <details ?open=${form.image !== ''}>
        <summary>${t('more')} ${icon('more')}</summary>
        <div class="inner">
          <label class="field"><span>${t('negative')}</span>
            <input name="negative" .value=${form.negative} placeholder=${t('negativeHint')}
              @input=${(event) => this.set('negative', event.target.value)}></label>
          ${this.slider('guidance', form.guidance ?? defaults.guidance_scale, { min: 0, max: Math.min(15, limits.guidance_scale_max), step: 0.5 })}
          ${this.seed()} ${state.models.length > 1 ? this.models() : nothing} ${this.startImage()}
        </div>
      </details>`;
  }

  sizes() {
    const chosen = form.size || this.model.defaults.size;
    return html`<fieldset class="sizes"><legend>${t('size')}</legend><div>
      ${sizesOf(this.model).map((size) => {
        const [w, h] = size.split('x').map(Number);
        const scale = 18 / Math.max(w, h);
        return html`<label class=${size === chosen ? 'on' : ''} title=${size}>
          <input type="radio" name="size" value=${size} .checked=${size === chosen} @change=${() => this.set('size', size)}>
          <i .style=${`width: ${w * scale}px; height: ${h * scale}px`}></i><span>${size.replace('x', '×')}</span></label>`;
      })}</div></fieldset>`;
  }

  slider(name, value, { min, max, step }) {
    return html`<label class="field slider"><span>${t(name)}<output>${value}</output></span>
      <input type="range" name=${name} min=${min} max=${max} step=${step} .value=${String(value)}
        @input=${(event) => this.set(name, Number(event.target.value))}></label>`;
  }

  counter() {
    return html`<label class="field"><span>${t('count')}</span>
      <select name="count" .value=${String(form.count)} @change=${(event) => this.set('count', Number(event.target.value))}>
        ${[1, 2, 3, 4, 6, 8].map((n) => html`<option value=${n} ?selected=${n === form.count}>${n}</option>`)}
      </select></label>`;
  }

  seed() {
    return html`<div class="field"><label for="seed">${t('seed')}</label><div class="joined">
      <input id="seed" inputmode="numeric" pattern="[0-9]*" placeholder=${t('seedAny')} .value=${form.seed}
        @input=${(event) => this.set('seed', event.target.value.replace(/\D/g, '').slice(0, 15))}>
      <button type="button" class="quiet" aria-label=${t('dice')} title=${t('dice')} @click=${() => this.set('seed', '')}>${icon('dice')}</button>
    </div></div>`;
  }

  models() {
    return html`<label class="field"><span>${t('model')}</span><select name="model"
      @change=${(event) => this.setModel(event.target.value)}>
      ${state.models.map(({ id }) => html`<option value=${id} ?selected=${id === this.model.id}>${id}</option>`)}
    </select></label>`;
  }

  startImage() {
    if (!form.image) {
      return html`<label class="drop">${icon('image')}<span>${t('start')}</span><small>${t('startHint')}</small>
        <input type="file" accept="image/png,image/jpeg,image/webp,image/gif" @change=${(event) => this.takeImage(event.target.files[0])}></label>`;
    }
    return html`<div class="started"><img src=${form.image} alt=${t('start')}>
      ${this.slider('strength', form.strength ?? this.model.defaults.strength, { min: 0.05, max: 1, step: 0.05 })}
      <button type="button" class="quiet" @click=${() => this.setImage('')}>${t('remove')}</button></div>`;
  }

  stageOf() {
    const tasks = stage.ids.map((id) => state.tasks.get(id)).filter(Boolean);
    const kind = (this.model?.id ?? '').includes('tiny') ? 'shapes' : 'photos';
    return html`
      ${tasks.length
        ? html`<div class="pictures n${Math.min(tasks.length, 5)}">
            ${repeat(tasks, (task) => task.id, (task) => picture(task, { actions: this.actions(task) }))}</div>`
        : html`<div class="blank"><div class="frame"><div class="noise"></div></div>
            <p>${t('examples')}</p><div class="examples">${EXAMPLES[kind].map((text) => html`
              <button type="button" class="quiet" @click=${() => this.set('prompt', text)}>${text}</button>`)}</div></div>`}
      ${this.recent(tasks)}`;
  }

  actions(task) {
    if (isOpen(task)) {
      return html`<div class="actions"><button class="quiet" @click=${() => cancel(task)}>${icon('cross')}${t('cancel')}</button></div>`;
    }
    if (!task.known) return nothing;
    return html`<div class="actions">
      <button class="quiet" @click=${() => this.again(task, true)}>${icon('again')}${t('again')}</button>
      <button class="quiet" @click=${() => this.again(task, false)}>${icon('vary')}${t('vary')}</button>
      ${task.status === 'completed'
        ? html`<button class="quiet" aria-label=${t('download')} title=${t('download')} @click=${() => download(task)}>${icon('download')}</button>`
        : nothing}
      <span class="seedshown" title=${`${t('seed')} ${task.seed}`}>${task.seed}</span></div>`;
  }

  recent(shown) {
    const there = new Set(shown.map((task) => task.id));
    const found = [...state.tasks.values()]
      .filter((task) => task.known && task.status === 'completed' && state.isMine(task) && !there.has(task.id))
      .sort((a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1))
      .slice(0, RECENT_MAX);
    if (!found.length) return nothing;
    return html`<div class="recent">${repeat(found, (task) => task.id, (task) => html`
      <button class="thumb ${colourClass(task.executor)}" aria-label=${`${t('open')}: ${task.prompt ?? ''}`}
        @click=${() => { onStage([task.id]); this.requestUpdate(); }}>
        <img src=${sourceOf(thumbnailPath(task))} alt="" loading="lazy"></button>`)}</div>`;
  }
}

customElements.define('de-draw', Draw);
