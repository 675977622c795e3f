// What the page knows: the cluster, its tasks, whose they are, and whether the node is there.
//
// Everything comes from the one stream of events; what it does not tell (a prompt, a capacity) is
// asked for. Who draws what of a picture (`trail`: a device for each step) and what happened to it
// on the way (`story`) are kept while the page is open.

import { node } from './node.js';

const CLUSTER_MS = 2500;
const ASKED_TOGETHER_MS = 120;
const ASKED_ALONE_MAX = 4;
const TASKS_MAX = 1500;
const PREVIEWS_MAX = 60;
// From where a task was placed anew, to where its former device is known to be gone.
const KNOWN_LATE_MS = 15_000;
const COLOURS = 8;
// Between two pictures of the page: many events come within that time.
const APART_MS = 160;
const HIDDEN_MS = 500;
const OPEN = new Set(['queued', 'in_progress']);

export const isOpen = (task) => OPEN.has(task.status);

class State extends EventTarget {
  self = '';
  cluster = null;
  nodes = new Map();
  tasks = new Map();
  models = [];
  connection = 'opening';
  lostAt = 0;
  operator = false;
  problem = '';
  #colours = JSON.parse(localStorage.getItem('colours') ?? '{}');
  #mine = new Set(JSON.parse(localStorage.getItem('mine') ?? '[]'));
  #wanted = new Set();
  #asking = 0;
  #telling = false;
  #places = null;
  #toldAt = 0;

  // --- whose, and in which colour

  isMine(task) {
    return node.keyId ? task.owner === node.keyId : this.#mine.has(task.id);
  }

  get mineIds() {
    return [...this.#mine];
  }

  addMine(ids) {
    for (const id of ids) this.#mine.add(id);
    localStorage.setItem('mine', JSON.stringify([...this.#mine].slice(-300)));
  }

  colourOf(nodeId) {
    if (!nodeId) return -1;
    if (this.#colours[nodeId] === undefined) {
      const taken = Object.values(this.#colours);
      let free = 0;
      while (taken.includes(free)) free += 1;
      this.#colours[nodeId] = free;
      localStorage.setItem('colours', JSON.stringify(this.#colours));
    }
    return this.#colours[nodeId] % COLOURS;
  }

  // Place in the line of its device, as far as the page knows that line.
  placeOf(task) {
    if (!this.#places) {
      this.#places = new Map();
      const lines = new Map();
      const waiting = [...this.tasks.values()].filter((one) => one.status === 'queued' && one.executor);
      for (const one of waiting.sort((a, b) => a.etaAt - b.etaAt)) {
        lines.set(one.executor, (lines.get(one.executor) ?? 0) + 1);
        this.#places.set(one.id, lines.get(one.executor));
      }
    }
    return Math.max(this.#places.get(task.id) ?? 1, task.queue_position ?? 0);
  }

  // --- telling the parts, once for all that happens within a moment

  changed() {
    if (this.#telling) return;
    this.#telling = true;
    const tell = () => {
      this.#telling = false;
      this.#places = null;
      this.#toldAt = performance.now();
      this.dispatchEvent(new Event('changed'));
    };
    const wait = this.#toldAt + APART_MS - performance.now();
    if (document.hidden) setTimeout(tell, HIDDEN_MS);
    else if (wait > 0) setTimeout(() => requestAnimationFrame(tell), wait);
    else requestAnimationFrame(tell);
  }

  // What was asked for failed: said until it is read, or something else fails.
  fail(problem) {
    this.problem = problem;
    this.changed();
  }

  // --- beginning

  start() {
    node.follow({
      told: (name, data) => this.told(name, data),
      open: () => {
        const again = this.connection === 'lost';
        this.connection = 'open';
        this.readModels();
        this.readOpen();
        if (again) this.readCluster();
        if (again) this.readLatest();
        this.changed();
      },
      lost: () => this.lost(),
    });
    this.readCluster();
    this.readLatest();
    setInterval(() => {
      if (!document.hidden) this.readCluster();
    }, CLUSTER_MS);
    setInterval(() => {
      if ([...this.tasks.values()].some(isOpen)) this.changed();
    }, 1000);
  }

  lost() {
    if (this.connection !== 'lost') this.lostAt = Date.now();
    this.connection = 'lost';
    this.changed();
  }

  async readCluster() {
    try {
      const cluster = await node.ask('v1/cluster');
      this.cluster = cluster;
      this.self = cluster.node;
      this.operator = cluster.you.scopes.includes('operate');
      const found = [{ ...cluster.own, alive: true }, ...cluster.peers].filter((one) => one.node);
      found.sort((a, b) => (a.node < b.node ? -1 : 1));
      this.nodes = new Map(found.map((one) => [one.node, one]));
      for (const one of found) this.colourOf(one.node);
      this.changed();
    } catch {
      // The stream says whether the node is there.
    }
  }

  async readModels() {
    try {
      const { data } = await node.ask('v1/models');
      this.models = data.filter((model) => !model.alias_of && model.limits);
      this.changed();
      if (!this.models.length) setTimeout(() => this.readModels(), 2000);
    } catch {
      setTimeout(() => this.readModels(), 2000);
    }
  }

  async readLatest() {
    try {
      const { data } = await node.ask('v1/tasks?status=completed&limit=40');
      for (const one of data) this.read(one);
    } catch {
      // The gallery asks again.
    }
  }

  async readOpen() {
    const before = [...this.tasks.values()].filter(isOpen);
    try {
      const { data } = await node.ask('v1/tasks?status=queued,in_progress&limit=200');
      for (const one of data) this.read(one);
      const found = new Set(data.map((one) => one.id));
      for (const task of before) if (!found.has(task.id)) this.want(task.id);
    } catch {
      // Asked again with the next connection.
    }
  }

  // --- tasks

  task(id) {
    let task = this.tasks.get(id);
    if (!task) {
      task = { id, status: 'queued', sequence: 0, trail: [], story: [], step: 0, known: false };
      this.tasks.set(id, task);
      if (this.tasks.size > TASKS_MAX) this.forget();
    }
    return task;
  }

  // What was over first makes room.
  forget() {
    for (const [id, task] of this.tasks) {
      if (this.tasks.size <= TASKS_MAX) return;
      if (!isOpen(task)) this.tasks.delete(id);
    }
  }

  // A task as the node shows it.
  read(shown) {
    const task = this.task(shown.id);
    if (shown.erased) {
      this.tasks.delete(shown.id);
      this.changed();
      return task;
    }
    // Events tell what is so now; an answer may be older than they are, unless it is the end.
    const told = task.sequence > 0 && (isOpen(shown) || !isOpen(task));
    const { status, executor = null } = task;
    const step = Math.max(shown.steps_done ?? 0, task.step);
    Object.assign(task, shown, { known: true, step, steps: shown.num_inference_steps });
    task.steps -= Math.max(0, Math.floor(task.steps - task.steps * (shown.strength ?? 1)));
    if (told) Object.assign(task, { status, executor: executor ?? shown.executor });
    task.etaAt = Date.now() + (shown.eta_s ?? 0) * 1000;
    this.changed();
    return task;
  }

  want(id) {
    this.#wanted.add(id);
    if (!this.#asking) this.#asking = setTimeout(() => this.#askWanted(), ASKED_TOGETHER_MS);
  }

  // One by one where they are few, else as a list.
  async #askWanted() {
    const ids = [...this.#wanted];
    this.#wanted.clear();
    this.#asking = 0;
    if (ids.length > ASKED_ALONE_MAX) {
      try {
        const { data } = await node.ask('v1/tasks?limit=200');
        for (const one of data) this.read(one);
      } catch {
        // One of them is asked below.
      }
    }
    for (const id of ids.filter((one) => !this.tasks.get(one)?.known || ids.length <= ASKED_ALONE_MAX)) {
      try {
        this.read(await node.ask(`v1/tasks/${id}`));
      } catch (problem) {
        if (problem.status === 404 || problem.status === 410) this.tasks.delete(id);
      }
    }
    this.changed();
  }

  // Which device took which step, of a task that ended before the page was opened.
  async readTrail(task) {
    if (!task || isOpen(task) || task.trail.length) return;
    try {
      const trail = await node.trail(task.id);
      if (!task.trail.length) task.trail = trail;
      this.changed();
    } catch {
      // The node remembers the latest only; the picture says who ended it.
    }
  }

  // --- events

  told(name, data) {
    if (name === 'task') this.happened(data);
    else if (name === 'node') this.seen(data);
    else if (name === 'missed') this.readOpen();
    this.changed();
  }

  seen({ node: id, alive, accepting }) {
    const known = this.nodes.get(id) ?? { node: id };
    this.nodes.set(id, { ...known, alive, accepting });
    this.nodes = new Map([...this.nodes].sort(([a], [b]) => (a < b ? -1 : 1)));
    if (!alive) for (const task of this.tasks.values()) this.#lose(task, id);
    this.readCluster();
  }

  // A device is gone: what it drew is lost from there on, also where it was placed anew before
  // anybody knew why.
  #lose(task, id) {
    if (isOpen(task) && task.executor === id) {
      task.story.push({ kind: 'gone', from: id, step: task.step });
      return;
    }
    const left = task.story.findLast((line) => line.from === id && line.drawing && !line.reason);
    if (left && Date.now() - left.at < KNOWN_LATE_MS) left.kind = 'gone';
  }

  happened(event) {
    const task = this.task(event.task_id);
    if (event.sequence <= task.sequence) return;
    task.sequence = event.sequence;
    task.node ??= event.node;
    task.owner = event.owner;
    task.step = event.step;
    task.steps = event.steps || task.steps;
    task.queue_position = event.queue_position;
    task.etaAt = Date.now() + event.eta_s * 1000;
    HAPPENED[event.type]?.(this, task, event);
    if (!task.known) this.want(task.id);
  }

  goTo(task, to, told) {
    const from = task.executor;
    const last = task.story.at(-1);
    if (to && from && from !== to && !(last?.kind === 'gone' && last.from === from)) {
      const drawing = task.status === 'in_progress';
      task.story.push({ kind: 'moved', from, to, step: task.step, drawing, at: Date.now(), ...told });
    }
    task.executor = to ?? task.executor;
    if (to) {
      const flight = { task, from: from ?? task.node, to, ...told };
      this.dispatchEvent(new CustomEvent('flight', { detail: flight }));
    }
  }

  showPreview(task, base64, step) {
    task.preview = `data:image/png;base64,${base64}`;
    task.previewStep = step;
    task.previewAt = performance.now();
    const shown = [...this.tasks.values()].filter((one) => one.preview);
    if (shown.length > PREVIEWS_MAX) delete shown.find((one) => !isOpen(one))?.preview;
  }

  end(task, status, event) {
    task.status = status;
    task.error = event.error ?? null;
    if (status === 'completed') {
      task.step = task.steps;
      while (task.trail.length < task.steps) task.trail.push(event.executor ?? task.executor);
    }
    this.want(task.id);
    this.dispatchEvent(new CustomEvent('ended', { detail: task }));
  }
}

// What an event means, by its type.
const HAPPENED = {
  queued: (state, task) => {
    task.status = 'queued';
  },
  placed: (state, task, event) => {
    task.attempt = event.attempt;
    // Of a move it was told before.
    if (event.executor !== task.executor) state.goTo(task, event.executor, {});
    task.status = 'queued';
  },
  moved: (state, task, { move }) => {
    task.executor = move.from;
    state.goTo(task, move.to, { reason: move.reason, gainS: move.expected_gain_s });
  },
  started: (state, task, event) => {
    task.status = 'in_progress';
    task.executor = event.executor ?? task.executor;
    if (event.step > 0) {
      const last = task.story.at(-1);
      if (last?.kind !== 'resumed') {
        task.story.push({ kind: 'resumed', to: task.executor, step: event.step });
      }
    }
  },
  step: (state, task, event) => {
    task.status = 'in_progress';
    task.executor = event.executor ?? task.executor;
    while (task.trail.length < event.step) task.trail.push(task.executor);
    if (event.preview_b64_json) state.showPreview(task, event.preview_b64_json, event.step);
  },
  finished: (state, task, event) => state.end(task, 'completed', event),
  failed: (state, task, event) => state.end(task, 'failed', event),
  cancelled: (state, task, event) => state.end(task, 'cancelled', event),
};

export const state = new State();
